//! Parameters from file to device, tensor by tensor and in parallel; the host holds no second copy.

use rayon::prelude::*;

use super::Result;
use super::devices::{Devices, PerDevice, Replica};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::dtype::DType;
use crate::model::{ModelSpec, ParameterSpec};
use crate::pjrt::{Buffer, Device, HostBuffer};

/// Puts the share of each of this process's devices of every parameter of `spec` on it, in the order of [`ModelSpec::parameters`].
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
            let shares = devices.local().par_iter().map(|Replica { index, device }| {
                let index = devices.mesh().model_index(*index);
                let buffer = load_share(checkpoint, spec, parameter, index, device)?;
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
    device: &Device,
) -> Result<Buffer> {
    let layout = spec.device.kernel_layout;
    let share = parameter.share(&spec.geometry);
    let mut view = checkpoint
        .require(&parameter.name, &parameter.shape)?
        .clone();
    let mut split = None;
    if let Some((dim, slice)) = parameter.slice(&spec.geometry, index) {
        view = view.slice(dim, slice.range)?;
        split = Some(dim);
    }
    // Either way round is a view of what is stored: a kernel that the file has as the device wants it is copied straight.
    let mut dims = share;
    if parameter.is_transposed(layout) {
        view = view.transposed();
        dims.reverse();
        split = split.map(|dim| dims.len() - 1 - dim);
    }
    let mut host = HostBuffer::zeroed(parameter.byte_size(&spec.geometry));
    read_padded(&view, parameter.dtype, &dims, split, host.as_mut())?;
    let shape = parameter.device_shape(&spec.geometry, layout);
    let buffer = Buffer::from_host(device, host, &shape.dims, shape.element_type)?;
    // On a device with memory of its own the transfer still reads the host's copy: waiting here bounds how
    // many of those there are by the number of loading threads.
    buffer.ready()?.wait()?;
    Ok(buffer)
}

/// Reads `view` into `out`, an array of zeros with dimensions `dims`: those of the view, but for `split`, where it may be longer
/// and stays zero.
fn read_padded(
    view: &Tensor,
    dtype: DType,
    dims: &[usize],
    split: Option<usize>,
    out: &mut [u8],
) -> Result<()> {
    let (Some(split), true) = (split, view.shape() != dims) else {
        return Ok(view.read_into(dtype, out)?);
    };
    // The elements of one step of the dimensions outside of the split one lie together, and the padding after them.
    let inner: usize = dims[split + 1..].iter().product::<usize>() * dtype.size();
    let (held, whole) = (view.shape()[split] * inner, dims[split] * inner);
    if held == 0 {
        return Ok(());
    }
    if dims[..split].iter().all(|&dim| dim == 1) {
        return Ok(view.read_into(dtype, &mut out[..held])?);
    }
    let mut packed = HostBuffer::zeroed(out.len() / whole * held);
    view.read_into(dtype, packed.as_mut())?;
    let packed: &[u8] = packed.as_ref();
    for (from, to) in packed.chunks_exact(held).zip(out.chunks_exact_mut(whole)) {
        to[..held].copy_from_slice(from);
    }
    Ok(())
}
