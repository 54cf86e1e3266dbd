//! Parameters from file to device, tensor by tensor and in parallel; the host holds no second copy.

use rayon::prelude::*;

use super::{Error, Result};
use crate::checkpoint::Checkpoint;
use crate::model::{ModelSpec, ParameterSpec};
use crate::pjrt::{Buffer, Client, Device, HostBuffer};

/// Puts every parameter of `spec` on `device`, in the order of [`ModelSpec::parameters`].
///
/// `loaded` is told the bytes of each parameter once it is there.
///
/// # Errors
/// A tensor that is missing or of another shape, a file that cannot be read, a device without memory for it.
pub fn load_parameters(
    checkpoint: &Checkpoint,
    spec: &ModelSpec,
    client: &Client,
    device: &Device,
    loaded: impl Fn(u64) + Sync,
) -> Result<Vec<Buffer>> {
    spec.parameters
        .par_iter()
        .map(|parameter| {
            let buffer = load_parameter(checkpoint, spec, parameter, client, device)?;
            loaded(parameter.byte_size() as u64);
            Ok(buffer)
        })
        .collect()
}

fn load_parameter(
    checkpoint: &Checkpoint,
    spec: &ModelSpec,
    parameter: &ParameterSpec,
    client: &Client,
    device: &Device,
) -> Result<Buffer> {
    let tensor = checkpoint.require(&parameter.name, &parameter.shape)?;
    let layout = spec.device.kernel_layout;
    let mut host = HostBuffer::zeroed(parameter.byte_size());
    let bytes = host.as_mut();
    // Either way round is a view of what is stored: a kernel that the file has as the device wants it is copied straight.
    if parameter.is_transposed(layout) {
        tensor.transposed().read_into(parameter.dtype, bytes)?;
    } else {
        tensor.read_into(parameter.dtype, bytes)?;
    }
    let shape = parameter.device_shape(layout);
    let buffer = client.buffer_from_host(host, &shape.dims, shape.element_type, device)?;
    // On a device with memory of its own the transfer still reads the host's copy: waiting here bounds how
    // many of those there are by the number of loading threads.
    buffer.ready()?.wait().map_err(Error::from)?;
    Ok(buffer)
}
