//! Owns `cleave:context`: what the host knows about the call that runs.

use super::{State, Work};
use wasmtime::component::{HasSelf, Linker};

mod generated {
    wasmtime::component::bindgen!({
        path: "../wit/cleave/context",
        inline: "package cleave:host-context; world host { import cleave:context/delivery@0.1.0; }",
        imports: { default: trappable },
    });
}

use generated::cleave::context::delivery as wit;

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wit::add_to_linker::<_, HasSelf<State>>(linker, |state| state)
}

impl wit::Host for State {
    fn current(&mut self) -> wasmtime::Result<Option<wit::Delivery>> {
        let Work::Event(delivery) = &self.writes.work else { return Ok(None) };
        Ok(Some(wit::Delivery {
            event_id: delivery.event.clone(),
            attempt: delivery.attempt,
            published_at: delivery.published_at,
        }))
    }
}
