//! From a checkpoint and options to a model on devices: tensor by tensor and in parallel; the host
//! holds no second copy.

use std::collections::HashMap;
use std::sync::Arc;

use rayon::prelude::*;

use super::devices::{Devices, PerDevice};
use super::error::{Error, Result};
use super::options::LoadOptions;
use crate::checkpoint::{Checkpoint, Tensor};
use crate::config::{FLAX_ROPE_THETA, GemmaConfig};
use crate::dtype::DType;
use crate::executables::SavedExecutables;
use crate::kernel::{self, CpuOps};
use crate::model::{ModelSpec, Ops, Parameter, Xla};
use crate::pjrt::{Buffer, Client, Device, HostBuffer, NamedValue, Plugin};
use crate::plugin::{self, Platform};
use crate::sharding::AxisShare;

/// The most devices that a CPU is divided into. The largest slices that meshes are tried out for
/// have fewer chips.
const MAX_CPU_DEVICES: usize = 1024;

/// A model that fits its checkpoint and devices, before its parameters are read.
pub(super) struct Prepared {
    pub devices: Devices,
    pub spec: ModelSpec,
    pub saved: Option<SavedExecutables>,
}

/// Checks the checkpoint against the configuration and opens the devices.
///
/// # Errors
/// A checkpoint that does not fit, a model that cannot be split over the mesh, a missing plugin, a
/// device that fails.
pub(super) fn prepare(
    mut config: GemmaConfig,
    checkpoint: &Checkpoint,
    options: &LoadOptions,
) -> Result<Prepared> {
    if options.ignore_eos {
        config = config.without_eos();
    }
    // First of all, so that the error counts everything that is missing, and not the embedding
    // alone.
    let expected: Vec<_> = crate::model::parameters(&config)
        .into_iter()
        .map(|parameter| {
            let shape = parameter.shape();
            (parameter.name, shape)
        })
        .collect();
    checkpoint.check(&expected)?;
    let compute = match options.dtype {
        Some(dtype) => dtype,
        None => checkpoint_dtype(checkpoint, &config)?,
    };
    let stored = |name: &str| checkpoint.get(name).map_or(compute, |t| t.dtype());
    // Whether checkpoint, configuration and mesh fit does not depend on the device: it is known
    // before a plugin is loaded.
    let mut spec = ModelSpec::new(config, compute, Xla::CPU, options.mesh, stored)?;

    let devices = Devices::new(open_client(options)?, options.mesh)?;
    super::memory::check_parameters(&spec, &devices)?;
    let saved = match &options.executables {
        Some(folder) => Some(SavedExecutables::open(folder, &devices.target()?)?),
        None => None,
    };
    spec.ops = ops(devices.client());
    if spec.config.rope_theta_differs_from_flax() {
        tracing::warn!(
            "config.json has rope_theta {}, which is followed; Flax's Gemma ignores it and uses {FLAX_ROPE_THETA}",
            spec.config.rope_theta()
        );
    }
    Ok(Prepared {
        devices,
        spec,
        saved,
    })
}

/// The operations of a client's kind of device.
fn ops(client: &Client) -> Arc<dyn Ops> {
    match kernel::are_available(client) {
        true => Arc::new(CpuOps),
        false => {
            let kind = client.devices().first().map_or("", Device::kind);
            Arc::new(Xla::for_device(client.platform_name(), kind))
        }
    }
}

/// A client of the device that the options name.
fn open_client(options: &LoadOptions) -> Result<Client> {
    let needed = options.mesh.devices();
    let wrong = |problem| Error::Argument {
        argument: "devices",
        problem,
    };
    let count = match (options.device.as_str(), options.devices) {
        (device @ ("tpu" | "cuda"), Some(_)) => {
            return Err(wrong(format!(
                "the number of devices can be chosen for a CPU only; a {device} has those that it has"
            )));
        }
        (_, Some(count)) if count < needed => {
            let mesh = options.mesh;
            return Err(wrong(format!(
                "{count} are fewer than the {needed} of mesh {mesh}"
            )));
        }
        ("cpu", _) if options.devices.unwrap_or(needed) > MAX_CPU_DEVICES => {
            return Err(wrong(format!(
                "{} CPU devices: each has threads of its own, and this machine's are shared by all; \
                 the most is {MAX_CPU_DEVICES}",
                options.devices.unwrap_or(needed)
            )));
        }
        ("cpu", None) => Some(needed),
        (_, given) => given,
    };
    let create: Vec<_> = count
        .map(|count| {
            let count = NamedValue::Int64(count as i64);
            ("cpu_device_count".to_owned(), count)
        })
        .into_iter()
        .collect();
    let located = plugin::find(&options.device)?;
    let custom_calls = match located.platform {
        None | Some(Platform::Cpu) => kernel::custom_calls()?,
        Some(_) => Vec::new(),
    };
    let plugin = Plugin::open(&located.file, &custom_calls)?;
    Ok(Client::new(&plugin, &create)?)
}

/// The dtype that a checkpoint is computed in unless another is asked for: that of its embedding.
///
/// # Errors
/// A checkpoint without an embedding of the configured shape.
pub fn checkpoint_dtype(checkpoint: &Checkpoint, config: &GemmaConfig) -> Result<DType> {
    let parameters = crate::model::parameters(config);
    let mut embeddings = parameters.iter().filter(|p| p.is_embedding());
    match embeddings.next() {
        Some(embedding) => {
            let tensor = checkpoint.require(&embedding.name, &embedding.shape())?;
            Ok(tensor.dtype())
        }
        None => Ok(DType::F32),
    }
}

/// Puts the share of each of this process's devices of every parameter of `spec` on it, in the
/// order of [`ModelSpec::parameters`].
///
/// `loaded` is told the bytes of each share once it is there.
///
/// # Errors
/// A tensor that is missing or of another shape, a file that cannot be read, a device without
/// memory for it.
pub(super) fn load_parameters(
    checkpoint: &Checkpoint,
    spec: &ModelSpec,
    devices: &Devices,
    loaded: impl Fn(u64) + Sync,
) -> Result<Vec<PerDevice>> {
    let arrived = jobs(checkpoint, spec, devices)
        .into_par_iter()
        .map(|job| load_job(checkpoint, spec, devices, job, &loaded))
        .collect::<Result<Vec<_>>>()?;
    let mut buffers: Vec<Arrived> = arrived.into_iter().flatten().collect();
    buffers.sort_by_key(|arrived| arrived.place);
    let mut parameters: Vec<Vec<Buffer>> = spec.parameters.iter().map(|_| Vec::new()).collect();
    for Arrived {
        parameter, buffer, ..
    } in buffers
    {
        parameters[parameter].push(buffer);
    }
    Ok(parameters.into_iter().map(PerDevice).collect())
}

/// The most bytes of shares that one pass over a compressed array makes: on a device with memory of
/// its own the host holds them until all are read.
const PASS_BYTES: usize = 1 << 30;

/// Shares that are read together, each with the number of its parameter.
struct Job {
    shares: Vec<(usize, Share)>,
    bytes: usize,
}

/// A buffer with the numbers of its parameter and of the device that it is on.
struct Arrived {
    parameter: usize,
    place: usize,
    buffer: Buffer,
}

/// What is to be read: each share by itself, but those together that come from one compressed
/// array.
fn jobs(checkpoint: &Checkpoint, spec: &ModelSpec, devices: &Devices) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    let mut passes: HashMap<usize, usize> = HashMap::new();
    for (number, parameter) in spec.parameters.iter().enumerate() {
        let bytes = parameter.byte_size(spec.mesh);
        let pass = checkpoint.get(&parameter.name).and_then(Tensor::pass);
        for share in shares(spec, parameter, devices) {
            let open = pass.and_then(|pass| passes.get(&pass).copied());
            match open.and_then(|job| jobs.get_mut(job)) {
                Some(job) if job.bytes + bytes <= PASS_BYTES => {
                    job.shares.push((number, share));
                    job.bytes += bytes;
                }
                _ => {
                    if let Some(pass) = pass {
                        passes.insert(pass, jobs.len());
                    }
                    jobs.push(Job {
                        shares: vec![(number, share)],
                        bytes,
                    });
                }
            }
        }
    }
    jobs
}

/// A share of a parameter, and which of this process's replicas hold it.
struct Share {
    slice: Option<(usize, AxisShare)>,
    places: Vec<usize>,
}

/// The different shares that this process's devices hold: replicas of the data axis have the same,
/// and all have that of a parameter that is not split.
fn shares(spec: &ModelSpec, parameter: &Parameter, devices: &Devices) -> Vec<Share> {
    let mut shares: Vec<Share> = Vec::new();
    for (place, replica) in devices.local().iter().enumerate() {
        let slice = parameter.slice(spec.mesh, spec.mesh.model_index(replica.index));
        match shares.iter_mut().find(|share| share.slice == slice) {
            Some(share) => share.places.push(place),
            None => shares.push(Share {
                slice,
                places: vec![place],
            }),
        }
    }
    shares
}

/// A share as it is read: a view, and memory for what the device takes of it.
struct Reading {
    view: Tensor,
    dtype: DType,
    dims: Vec<usize>,
    split: Option<usize>,
    host: HostBuffer,
}

impl Reading {
    fn new(
        checkpoint: &Checkpoint,
        spec: &ModelSpec,
        parameter: &Parameter,
        share: &Share,
    ) -> Result<Self> {
        let mut view = checkpoint
            .require(&parameter.name, &parameter.shape())?
            .clone();
        let mut split = None;
        if let Some((dim, slice)) = &share.slice {
            view = view.slice(*dim, slice.range.clone())?;
            split = Some(*dim);
        }
        // Either way round is a view of what is stored: a kernel that the file has as the device
        // wants it is copied straight.
        let mut dims = parameter.share(spec.mesh);
        if parameter.is_transposed(spec.ops.kernel_layout()) {
            view = view.transposed();
            dims.reverse();
            split = split.map(|dim| dims.len() - 1 - dim);
        }
        Ok(Reading {
            view,
            dtype: parameter.dtype,
            dims,
            split,
            host: HostBuffer::zeroed(parameter.byte_size(spec.mesh)),
        })
    }

    fn read(&mut self) -> Result<()> {
        let out = self.host.as_mut();
        read_padded(&self.view, self.dtype, &self.dims, self.split, out)
    }
}

/// Reads the shares of a job, each stored element once, and puts each on all devices that hold it.
fn load_job(
    checkpoint: &Checkpoint,
    spec: &ModelSpec,
    devices: &Devices,
    job: Job,
    loaded: &(impl Fn(u64) + Sync),
) -> Result<Vec<Arrived>> {
    let mut readings = job
        .shares
        .iter()
        .map(|(number, share)| Reading::new(checkpoint, spec, &spec.parameters[*number], share))
        .collect::<Result<Vec<_>>>()?;
    if let [reading] = readings.as_mut_slice() {
        reading.read()?;
    } else {
        // Those that are padded are few and small, and are read by themselves.
        let mut together = Vec::new();
        for reading in &mut readings {
            match reading.view.shape() == reading.dims {
                true => together.push((reading.view.clone(), reading.dtype, reading.host.as_mut())),
                false => reading.read()?,
            }
        }
        Tensor::read_together(together)?;
    }
    let mut arrived = Vec::new();
    for ((number, share), reading) in job.shares.into_iter().zip(readings) {
        let parameter = &spec.parameters[number];
        let bytes = parameter.byte_size(spec.mesh) as u64;
        let host = Arc::new(reading.host);
        let shape = parameter.device_shape(spec.mesh, spec.ops.kernel_layout());
        for place in share.places {
            let device = &devices.local()[place].device;
            let buffer = Buffer::from_host(device, host.clone(), &shape.dims, shape.element_type)?;
            // On a device with memory of its own the transfer still reads the host's copy: waiting
            // here bounds how many of those there are by the number of loading threads.
            buffer.ready()?.wait()?;
            loaded(bytes);
            arrived.push(Arrived {
                parameter: number,
                place,
                buffer,
            });
        }
    }
    Ok(arrived)
}

/// Reads `view` into `out`, an array of zeros with dimensions `dims`: those of the view, but for
/// `split`, where it may be longer and stays zero.
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
    // The elements of one step of the dimensions outside of the split one lie together, and the
    // padding after them.
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
