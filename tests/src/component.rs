//! Makes components out of WIT text: their functions do nothing but trap, their types are real.

use std::path::Path;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{ManglingAndAbi, Resolve};

/// A component of the world `w` in a WIT text, which may import the interfaces of `wit/cleave`.
pub fn from_wit(text: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    for package in ["call", "sql", "log"] {
        resolve.push_dir(crate::root().join("wit/cleave").join(package)).unwrap();
    }
    let package = resolve.push_str(Path::new("test.wit"), text).unwrap();
    let world = resolve.select_world(&[package], Some("w")).unwrap();
    let mangling = ManglingAndAbi::Legacy(wit_parser::LiftLowerAbi::Sync);
    let mut module = wit_component::dummy_module(&resolve, world, mangling);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}
