//! Parameters from file to device, tensor by tensor and in parallel; the host holds no second copy.

use rayon::prelude::*;

use super::Result;
use super::devices::{Devices, PerDevice};
use super::relayout::{read_flat, read_transposed};
use crate::checkpoint::Checkpoint;
use crate::model::{ModelSpec, ParameterSpec};
use crate::pjrt::{Buffer, Client, Device, HostBuffer};

/// Puts every device's share of every parameter of `spec` on it, in the order of [`ModelSpec::parameters`].
///
/// `loaded` is told the bytes of each share once it is there.
///
/// # Errors
/// A tensor that is missing or of another shape, a file that cannot be read, a device without memory for it.
pub fn load_parameters(
    checkpoint: &Checkpoint,
    spec: &ModelSpec,
    devices: &Devices,
    loaded: impl Fn(u64) + Sync,
) -> Result<Vec<PerDevice>> {
    spec.parameters
        .par_iter()
        .map(|parameter| {
            let shares = devices
                .all()
                .par_iter()
                .enumerate()
                .map(|(replica, device)| {
                    let index = devices.mesh().model_index(replica);
                    let buffer =
                        load_share(checkpoint, spec, parameter, index, devices.client(), device)?;
                    loaded(parameter.byte_size(&spec.geometry) as u64);
                    Ok(buffer)
                });
            Ok(PerDevice(shares.collect::<Result<_>>()?))
        })
        .collect()
}

/// Puts the share of the device at place `index` of the model axis on it.
fn load_share(
    checkpoint: &Checkpoint,
    spec: &ModelSpec,
    parameter: &ParameterSpec,
    index: usize,
    client: &Client,
    device: &Device,
) -> Result<Buffer> {
    let tensor = checkpoint.require(&parameter.name, &parameter.shape)?;
    let layout = spec.device.kernel_layout;
    let mut host = HostBuffer::zeroed(parameter.byte_size(&spec.geometry));
    let bytes = host.as_mut();
    match *tensor.shape() {
        [rows, columns] if parameter.is_transposed(layout) => {
            read_transposed(tensor, [rows, columns], parameter.dtype, bytes)?;
        }
        _ => read_flat(tensor, parameter.dtype, bytes)?,
    }
    let _ = index;
    let shape = parameter.device_shape(&spec.geometry, layout);
    let buffer = client.buffer_from_host(host, &shape.dims, shape.element_type, device)?;
    // On a device with memory of its own the transfer still reads the host's copy: waiting here bounds how
    // many of those there are by the number of loading threads.
    buffer.ready()?.wait()?;
    Ok(buffer)
}
