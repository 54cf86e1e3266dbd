//! The smallest mesh of a slice that a batch fits on, found by compiling.

use std::time::Instant;

use super::Request;
use super::bound::least_bytes;
use super::compile::Target;
use super::error::Result;
use super::measure::measure;
use super::report::SmallestMesh;
use super::topologies::TpuSlice;
use crate::engine::BatchPrograms;
use crate::model::ModelSpec;
use crate::sharding::Mesh;

/// What the search is for.
pub(super) struct MeshSearch<'a> {
    pub target: &'a Target<'a>,
    pub request: &'a Request,
    pub slice: TpuSlice,
    pub prompt_tokens: usize,
    /// No compile starts after this.
    pub deadline: Instant,
}

struct Candidate {
    mesh: Mesh,
    spec: ModelSpec,
    programs: BatchPrograms,
    /// Bytes of a device's parameters and caches.
    bytes: u64,
}

impl MeshSearch<'_> {
    /// Tries meshes, those of fewer devices first, that are not known to be too small.
    ///
    /// # Errors
    /// What the compiler says, but for want of memory.
    pub fn run(&self) -> Result<SmallestMesh> {
        for candidate in self.candidates(self.slice.chips) {
            let (mesh, devices) = (candidate.mesh.to_string(), candidate.mesh.devices());
            if candidate.mesh == self.request.mesh {
                continue;
            }
            match self.fits(&candidate)? {
                Some(true) => return Ok(SmallestMesh::Fits { mesh, devices }),
                Some(false) => {}
                None => return Ok(SmallestMesh::MayFit { mesh, devices }),
            }
        }
        let larger = TpuSlice::all()
            .filter(|slice| slice.chip == self.slice.chip && slice.chips > self.slice.chips)
            .find_map(|slice| {
                let smallest = self.candidates(slice.chips).into_iter().next()?;
                Some((slice.name, smallest.mesh.to_string()))
            });
        Ok(SmallestMesh::None {
            larger_slice: larger,
        })
    }

    /// The meshes of up to `devices` devices on which parameters and caches alone fit, in the order
    /// in which they are tried. The data axis is a power of two and no longer than the batch.
    fn candidates(&self, devices: usize) -> Vec<Candidate> {
        let mut found = Vec::new();
        for model in 1..=devices {
            let data = std::iter::successors(Some(1), |data| Some(data * 2))
                .take_while(|data| data * model <= devices && *data <= self.request.batch_size);
            for data in data {
                let Some(candidate) = self.candidate(Mesh { data, model }) else {
                    // What the model axis cannot split, no data axis makes splittable.
                    break;
                };
                let limit = self.target.memory_limit();
                if limit.is_none_or(|limit| candidate.bytes <= limit) {
                    found.push(candidate);
                }
            }
        }
        found.sort_by_key(|candidate| (candidate.mesh.devices(), candidate.bytes));
        found
    }

    fn candidate(&self, mesh: Mesh) -> Option<Candidate> {
        let request = self.request;
        let spec = request
            .source
            .spec(request.dtype, self.slice.chip.ops(), mesh);
        let spec = spec.ok()?;
        let new_tokens = request.max_length - self.prompt_tokens;
        let programs = request.programs(&spec, request.batch_size, self.prompt_tokens, new_tokens);
        Some(Candidate {
            mesh,
            bytes: least_bytes(&spec, &programs),
            spec,
            programs,
        })
    }

    /// Whether all its programs fit; none where time ran out before that was known. The decode
    /// program, which takes all caches, comes first.
    fn fits(&self, candidate: &Candidate) -> Result<Option<bool>> {
        let mut keys: Vec<_> = candidate.programs.keys().collect();
        keys.reverse();
        for key in keys {
            if Instant::now() > self.deadline {
                return Ok(None);
            }
            if measure(self.target, &candidate.spec, key)?.fits().is_none() {
                return Ok(Some(false));
            }
        }
        Ok(Some(true))
    }
}
