//! What the objects of a plugin keep alive: the client or the topology that they belong to.

use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use pjrt_sys::*;

use super::abi::{Api, Padded, call, list, object};
use super::error::Result;
use super::named_value::{self, NamedValue};
use super::plugin::Plugin;

/// The plugin's client itself, which everything made with it keeps alive.
pub(super) struct ClientHandle {
    plugin: Plugin,
    raw: NonNull<PJRT_Client>,
    /// Whether the plugin moves elements to and from device layouts. Set once the devices are
    /// known; until then taken as given.
    lays_out: OnceLock<bool>,
}

// SAFETY: PJRT clients may be used from any thread, and by many at once; XLA's own front ends do
// so.
unsafe impl Send for ClientHandle {}
// SAFETY: as for Send.
unsafe impl Sync for ClientHandle {}

impl ClientHandle {
    /// Makes a client of the plugin.
    pub(super) fn create(
        plugin: &Plugin,
        options: &[(String, NamedValue)],
    ) -> Result<Arc<ClientHandle>> {
        plugin.close_registration();
        let raw_options = named_value::to_raw(options);
        let mut args = Padded::<PJRT_Client_Create_Args>::with(|args| {
            args.create_options = list(&raw_options);
            args.num_options = raw_options.len();
        });
        // SAFETY: the options live through the call. There are no key-value callbacks: null is
        // allowed.
        unsafe { call!(plugin.api(), PJRT_Client_Create, &mut args) }?;
        Ok(Arc::new(ClientHandle {
            plugin: plugin.clone(),
            raw: object(args.client, "PJRT_Client_Create")?,
            lays_out: OnceLock::new(),
        }))
    }

    pub(super) fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    pub(super) fn api(&self) -> Api {
        self.plugin.api()
    }

    pub(super) fn raw(&self) -> *mut PJRT_Client {
        self.raw.as_ptr()
    }

    /// Whether the plugin converts elements to and from device layouts, as it should. Taken as
    /// given until [`ClientHandle::set_lays_out`] says otherwise.
    pub(super) fn lays_out(&self) -> bool {
        self.lays_out.get().copied().unwrap_or(true)
    }

    /// Notes whether the plugin converts layouts; the first call counts.
    pub(super) fn set_lays_out(&self, lays_out: bool) {
        let _ = self.lays_out.set(lays_out);
    }
}

impl Drop for ClientHandle {
    fn drop(&mut self) {
        let mut args = Padded::<PJRT_Client_Destroy_Args>::with(|args| args.client = self.raw());
        // SAFETY: the last handle: all that was made with the client is gone, and it is not used
        // after this.
        if let Err(error) = unsafe { call!(self.api(), PJRT_Client_Destroy, &mut args) } {
            tracing::warn!("closing a PJRT client: {error}");
        }
    }
}

/// The plugin's topology itself, which the programs compiled for it keep alive.
pub(super) struct TopologyHandle {
    plugin: Plugin,
    raw: NonNull<PJRT_TopologyDescription>,
}

// SAFETY: a topology does not change once it is made; its functions may be called from any thread.
unsafe impl Send for TopologyHandle {}
// SAFETY: as for Send.
unsafe impl Sync for TopologyHandle {}

impl TopologyHandle {
    /// Makes the topology of a name.
    pub(super) fn create(
        plugin: &Plugin,
        name: &str,
        options: &[(String, NamedValue)],
    ) -> Result<Arc<TopologyHandle>> {
        plugin.close_registration();
        let raw_options = named_value::to_raw(options);
        let mut args = Padded::<PJRT_TopologyDescription_Create_Args>::with(|args| {
            args.topology_name = name.as_ptr().cast();
            args.topology_name_size = name.len();
            args.create_options = list(&raw_options);
            args.num_options = raw_options.len();
        });
        // SAFETY: name and options live through the call.
        unsafe { call!(plugin.api(), PJRT_TopologyDescription_Create, &mut args) }?;
        Ok(Arc::new(TopologyHandle {
            plugin: plugin.clone(),
            raw: object(args.topology, "PJRT_TopologyDescription_Create")?,
        }))
    }

    pub(super) fn raw(&self) -> *mut PJRT_TopologyDescription {
        self.raw.as_ptr()
    }

    pub(super) fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    pub(super) fn api(&self) -> Api {
        self.plugin.api()
    }
}

impl Drop for TopologyHandle {
    fn drop(&mut self) {
        let mut args = Padded::<PJRT_TopologyDescription_Destroy_Args>::with(|args| {
            args.topology = self.raw.as_ptr();
        });
        // SAFETY: the topology is ours and is not used after this.
        let freed = unsafe { call!(self.api(), PJRT_TopologyDescription_Destroy, &mut args) };
        if let Err(error) = freed {
            tracing::debug!("freeing a topology: {error}");
        }
    }
}

/// What an executable keeps alive.
pub(super) enum Owner {
    Client(Arc<ClientHandle>),
    Topology(Arc<TopologyHandle>),
}

impl Owner {
    pub(super) fn plugin(&self) -> &Plugin {
        match self {
            Owner::Client(client) => client.plugin(),
            Owner::Topology(topology) => topology.plugin(),
        }
    }
}
