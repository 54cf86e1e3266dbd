//! The programs compiled so far, with the tables that they take.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::devices::{Devices, PerDevice};
use super::error::Result;
use super::memory::{self, Parameters};
use super::program_key::ProgramKey;
use crate::compile_cache::{CompileCache, Origin};
use crate::executables::SavedExecutables;
use crate::model::{ModelSpec, RopeTables, Rotary};
use crate::pjrt::Executable;

/// A program, compiled and loaded, with the tables of rotary embeddings that it takes.
#[derive(Clone)]
pub(super) struct CompiledProgram {
    pub executable: Executable,
    pub ropes: Arc<Vec<Rotary<PerDevice>>>,
}

/// Programs by what they do and their shapes. Each is compiled on its first use, while others can
/// be used.
pub(super) struct CompiledPrograms {
    cache: CompileCache,
    saved: Option<SavedExecutables>,
    programs: OncePerKey<ProgramKey, CompiledProgram>,
    ropes: OncePerKey<usize, Arc<Vec<Rotary<PerDevice>>>>,
}

impl CompiledPrograms {
    pub fn new(cache: CompileCache, saved: Option<SavedExecutables>) -> Self {
        Self {
            cache,
            saved,
            programs: OncePerKey::default(),
            ropes: OncePerKey::default(),
        }
    }

    /// The program of this key. `compiled` is told where it came from and how long that took, the
    /// first time. What it takes of memory is held against what there is, before it is compiled as
    /// far as its shapes tell, and again with what the compiler says.
    pub fn get(
        &self,
        key: ProgramKey,
        spec: &ModelSpec,
        devices: &Devices,
        parameters: Parameters,
        compiled: impl FnOnce(Origin, Duration),
    ) -> Result<CompiledProgram> {
        self.programs.get(key, || {
            let start = std::time::Instant::now();
            let module = key.lower(spec)?;
            memory::check_program(key, &module, None, parameters, spec, devices)?;
            let options = key.compile_options(spec, &devices.assignment());
            let client = devices.client();
            let (executable, origin) = match &self.saved {
                Some(saved) => {
                    let wanted = key.manifest_entry(String::new());
                    let executable = saved.load(client, &wanted, &module, &options)?;
                    (executable, Origin::Cached)
                }
                None => self.cache.load_or_compile(client, &module, &options)?,
            };
            let elapsed = start.elapsed();
            tracing::debug!(?key, ?origin, ?elapsed, "program");
            compiled(origin, elapsed);
            // A plugin need not know.
            if let Ok(stats) = executable.memory_stats() {
                tracing::debug!(?key, ?stats, "memory");
                memory::check_program(key, &module, Some(&stats), parameters, spec, devices)?;
            }
            let positions = key.positions();
            let ropes = self.ropes.get(positions, || {
                rope_tables(spec, devices, positions).map(Arc::new)
            })?;
            Ok(CompiledProgram { executable, ropes })
        })
    }

    /// Whether programs come from a folder of executables alone.
    pub fn are_saved(&self) -> bool {
        self.saved.is_some()
    }

    /// Forgets all programs: the next use of each takes it from the cache, or compiles it again.
    pub fn forget(&self) {
        self.programs.clear();
    }
}

/// The tables of each rotary embedding for the positions from 0, on the devices.
fn rope_tables(
    spec: &ModelSpec,
    devices: &Devices,
    positions: usize,
) -> Result<Vec<Rotary<PerDevice>>> {
    let ropes = spec.gemma.spec().ropes.iter();
    ropes
        .map(|rope| {
            let RopeTables { tables, pairs, .. } = RopeTables::new(rope, positions);
            let dims = [positions as i64, pairs as i64];
            let upload = |values: Vec<f32>| {
                let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                devices.upload(&bytes, hlo::ElementType::F32, &dims)
            };
            Ok(Rotary {
                sin: upload(tables.sin)?,
                cos: upload(tables.cos)?,
            })
        })
        .collect()
}

/// Values that are made on first use, each once, with nobody waiting for another key's.
struct OncePerKey<K, V>(Mutex<HashMap<K, Arc<Mutex<Option<V>>>>>);

impl<K, V> Default for OncePerKey<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> OncePerKey<K, V> {
    /// The value of `key`, made now if there is none. A second caller for the same key waits for
    /// the first.
    fn get(&self, key: K, make: impl FnOnce() -> Result<V>) -> Result<V> {
        let slot = {
            let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            slots.entry(key).or_default().clone()
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(value) => Ok(value.clone()),
            None => {
                let value = make()?;
                *slot = Some(value.clone());
                Ok(value)
            }
        }
    }

    fn clear(&self) {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_value_is_made_once_and_nobody_waits_for_another_keys() {
        let values: OncePerKey<u32, u32> = OncePerKey::default();
        let (begun, has_begun) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let values = &values;
            let slow = scope.spawn(move || {
                values.get(1, || {
                    begun.send(()).expect("the test waits for it");
                    may_go_on.recv().expect("the test lets it");
                    Ok(10)
                })
            });
            has_begun.recv().expect("the first has begun");
            // Were the keys to share a lock, this would hang.
            assert_eq!(values.get(2, || Ok(20)).ok(), Some(20));
            go_on.send(()).expect("the first waits for it");
            assert_eq!(slow.join().expect("no panic").ok(), Some(10));
        });
        assert_eq!(values.get(1, || panic!("it is there")).ok(), Some(10));
    }
}
