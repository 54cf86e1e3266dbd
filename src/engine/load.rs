//! Parameters from file to device, tensor by tensor and in parallel; the host holds no second copy.

use std::collections::HashMap;

use rayon::prelude::*;

use super::Result;
use super::devices::{Devices, PerDevice, Replica};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::dtype::DType;
use crate::model::{ModelSpec, ParameterSpec};
use crate::pjrt::{Buffer, Client, Device, HostBuffer};

/// The most bytes of shares that one pass over a compressed array makes: on a device with memory of its own the host holds them
/// until all are read.
const PASS_BYTES: usize = 1 << 30;

/// Shares that are read together: each a parameter and one of this process's devices, by their numbers.
struct Job {
    shares: Vec<(usize, usize)>,
    bytes: usize,
}

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
    let arrived: Vec<Vec<(usize, Buffer)>> = jobs(checkpoint, spec, devices)
        .into_par_iter()
        .map(|job| {
            let shares: Vec<Share> = job
                .shares
                .iter()
                .map(|&(parameter, place)| {
                    let parameter = &spec.parameters[parameter];
                    Share::new(
                        checkpoint,
                        spec,
                        parameter,
                        &devices.local()[place],
                        devices,
                    )
                })
                .collect::<Result<_>>()?;
            let buffers = read_shares(shares, spec, devices.client())?;
            let mut arrived = Vec::new();
            for ((parameter, _), buffer) in job.shares.into_iter().zip(buffers) {
                let bytes = spec.parameters[parameter].byte_size(&spec.geometry);
                loaded(bytes as u64);
                arrived.push((parameter, buffer));
            }
            Ok(arrived)
        })
        .collect::<Result<_>>()?;
    let mut parameters: Vec<Vec<Buffer>> = spec.parameters.iter().map(|_| Vec::new()).collect();
    // The shares of a parameter are in the order of the devices in the jobs, too.
    for (parameter, buffer) in arrived.into_iter().flatten() {
        parameters[parameter].push(buffer);
    }
    Ok(parameters.into_iter().map(PerDevice).collect())
}

/// What is to be read: each share by itself, but those together that come from one compressed array.
fn jobs(checkpoint: &Checkpoint, spec: &ModelSpec, devices: &Devices) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    let mut passes: HashMap<usize, usize> = HashMap::new();
    for (number, parameter) in spec.parameters.iter().enumerate() {
        let bytes = parameter.byte_size(&spec.geometry);
        let pass = checkpoint.get(&parameter.name).and_then(Tensor::pass);
        for place in 0..devices.local().len() {
            let open = pass.and_then(|pass| passes.get(&pass).copied());
            match open.and_then(|job| jobs.get_mut(job)) {
                Some(job) if job.bytes + bytes <= PASS_BYTES => {
                    job.shares.push((number, place));
                    job.bytes += bytes;
                }
                _ => {
                    if let Some(pass) = pass {
                        passes.insert(pass, jobs.len());
                    }
                    jobs.push(Job {
                        shares: vec![(number, place)],
                        bytes,
                    });
                }
            }
        }
    }
    jobs
}

/// A device's share of a parameter, on its way there.
struct Share<'a> {
    parameter: &'a ParameterSpec,
    device: &'a Device,
    view: Tensor,
    /// The dimensions of what the device takes, and which of them the model axis splits.
    dims: Vec<usize>,
    split: Option<usize>,
    host: HostBuffer,
}

impl<'a> Share<'a> {
    fn new(
        checkpoint: &Checkpoint,
        spec: &ModelSpec,
        parameter: &'a ParameterSpec,
        replica: &'a Replica,
        devices: &Devices,
    ) -> Result<Self> {
        let index = devices.mesh().model_index(replica.index);
        let layout = spec.device.kernel_layout;
        let mut dims = parameter.share(&spec.geometry);
        let mut view = checkpoint
            .require(&parameter.name, &parameter.shape)?
            .clone();
        let mut split = None;
        if let Some((dim, slice)) = parameter.slice(&spec.geometry, index) {
            view = view.slice(dim, slice.range)?;
            split = Some(dim);
        }
        // Either way round is a view of what is stored: a kernel that the file has as the device wants it is copied straight.
        if parameter.is_transposed(layout) {
            view = view.transposed();
            dims.reverse();
            split = split.map(|dim| dims.len() - 1 - dim);
        }
        Ok(Share {
            parameter,
            device: &replica.device,
            view,
            dims,
            split,
            host: HostBuffer::zeroed(parameter.byte_size(&spec.geometry)),
        })
    }
}

/// Reads shares and puts each on its device.
fn read_shares(mut shares: Vec<Share>, spec: &ModelSpec, client: &Client) -> Result<Vec<Buffer>> {
    if let [share] = shares.as_mut_slice() {
        let (dtype, out) = (share.parameter.dtype, share.host.as_mut());
        read_padded(&share.view, dtype, &share.dims, share.split, out)?;
    } else {
        // Those that are padded are few and small, and are read by themselves.
        let mut together = Vec::new();
        for share in &mut shares {
            let (dtype, out) = (share.parameter.dtype, share.host.as_mut());
            match share.view.shape() == share.dims {
                true => together.push((share.view.clone(), dtype, out)),
                false => read_padded(&share.view, dtype, &share.dims, share.split, out)?,
            }
        }
        Tensor::read_together(together)?;
    }
    let buffers = shares.into_iter().map(|share| {
        let shape = share
            .parameter
            .device_shape(&spec.geometry, spec.device.kernel_layout);
        let buffer =
            client.buffer_from_host(share.host, &shape.dims, shape.element_type, share.device)?;
        // On a device with memory of its own the transfer still reads the host's copy: waiting here bounds how
        // many of those there are by the number of loading threads.
        buffer.ready()?.wait()?;
        Ok(buffer)
    });
    buffers.collect()
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
