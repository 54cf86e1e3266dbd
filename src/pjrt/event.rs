//! Completion of asynchronous work.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;

use pjrt_sys::*;

use super::abi::{Api, Padded, call};
use super::error::Result;
use super::handle::ClientHandle;

/// The completion of asynchronous work: of a transfer, or of an execution on one device.
///
/// Dropping an event does not wait for it.
pub struct Event {
    client: Arc<ClientHandle>,
    /// None where the plugin gave no event: then the work had ended when the call returned.
    raw: Option<NonNull<PJRT_Event>>,
}

// SAFETY: an event is a reference-counted future; the PJRT C API lets any thread wait for it, ask
// it, and free it.
unsafe impl Send for Event {}
// SAFETY: as for Send; none of the functions used here changes the event.
unsafe impl Sync for Event {}

impl Event {
    /// # Safety
    /// `raw` is null or an event of this client that the caller hands over.
    pub(super) unsafe fn from_raw(client: &Arc<ClientHandle>, raw: *mut PJRT_Event) -> Event {
        Event {
            client: Arc::clone(client),
            raw: NonNull::new(raw),
        }
    }

    /// Blocks until the work has ended.
    ///
    /// # Errors
    /// What the work failed with.
    pub fn wait(&self) -> Result<()> {
        let Some(raw) = self.raw else { return Ok(()) };
        let mut args = Padded::<PJRT_Event_Await_Args>::with(|args| args.event = raw.as_ptr());
        // SAFETY: the event is alive as long as self.
        unsafe { call!(self.client.api(), PJRT_Event_Await, &mut args) }
    }

    /// Whether the work has ended, with success or failure.
    ///
    /// # Errors
    /// Where the plugin does not provide it.
    pub fn is_ready(&self) -> Result<bool> {
        let Some(raw) = self.raw else { return Ok(true) };
        let mut args = Padded::<PJRT_Event_IsReady_Args>::with(|args| args.event = raw.as_ptr());
        // SAFETY: the event is alive as long as self.
        unsafe { call!(self.client.api(), PJRT_Event_IsReady, &mut args) }?;
        Ok(args.is_ready)
    }

    /// Calls `f` with the outcome once the work has ended: immediately where it has ended already,
    /// otherwise on a thread of the plugin. A panic in `f` is caught. `f` must not wait for other
    /// work of the client, nor drop the last handle of the client: it runs on the thread that would
    /// have to do it.
    ///
    /// # Errors
    /// Where the plugin refuses. `f` is then never called, nor dropped.
    pub fn on_ready(&self, f: impl FnOnce(Result<()>) + Send + 'static) -> Result<()> {
        let Some(raw) = self.raw else {
            f(Ok(()));
            return Ok(());
        };
        let callback = Box::into_raw(Box::new(Callback {
            api: self.client.api(),
            f: Box::new(f),
        }));
        let mut args = Padded::<PJRT_Event_OnReady_Args>::with(|args| {
            args.event = raw.as_ptr();
            args.callback = Some(run_callback);
            args.user_arg = callback.cast();
        });
        // SAFETY: the event is alive as long as self, and may be freed once the callback is
        // registered, which XLA's own client does. The callback's state is on the heap, is given up
        // here, and is taken back by run_callback alone. On failure it leaks: there is no telling
        // whether the plugin has kept the pointer.
        unsafe { call!(self.client.api(), PJRT_Event_OnReady, &mut args) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let Some(raw) = self.raw else { return };
        let mut args = Padded::<PJRT_Event_Destroy_Args>::with(|args| args.event = raw.as_ptr());
        // SAFETY: the event is ours and is not used after this.
        if let Err(error) = unsafe { call!(self.client.api(), PJRT_Event_Destroy, &mut args) } {
            tracing::debug!("freeing an event: {error}");
        }
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Event")
            .field("is_ready", &self.is_ready())
            .finish()
    }
}

/// What `run_callback` needs, on the heap.
struct Callback {
    api: Api,
    f: Box<dyn FnOnce(Result<()>) + Send>,
}

unsafe extern "C" fn run_callback(error: *mut PJRT_Error, user_arg: *mut c_void) {
    // SAFETY: user_arg is the box that on_ready gave up, and the plugin calls back once.
    let callback = unsafe { Box::from_raw(user_arg.cast::<Callback>()) };
    let Callback { api, f } = *callback;
    // SAFETY: the plugin hands the error over to the callback.
    let result = unsafe { api.check("PJRT_Event_OnReady", error) };
    // Unwinding into the plugin's C++ would be undefined. The state that f may have left behind is
    // not seen again.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| f(result))) {
        tracing::error!("a callback on the completion of device work panicked");
        // Dropping the payload could panic again.
        std::mem::forget(panic);
    }
}
