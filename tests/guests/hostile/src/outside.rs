//! Looks for everything outside the module that an instance could reach without being granted it.

use std::fs;

use wasip2::cli::terminal_stdout;
use wasip2::filesystem::preopens;
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup;
use wasip2::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

/// What was found; empty if there is nothing.
pub(crate) fn findings() -> Vec<String> {
    let mut found = Vec::new();
    found.extend(std::env::vars_os().map(|(name, value)| format!("variable {name:?} = {value:?}")));
    found.extend(std::env::args_os().map(|argument| format!("argument {argument:?}")));
    found.extend(preopens::get_directories().into_iter().map(|(_, path)| format!("folder {path} is open")));
    for path in ["/etc/passwd", "etc/passwd", "../../etc/passwd", "/proc/self/environ"] {
        found.extend(fs::read(path).map(|bytes| format!("file {path} has {} bytes", bytes.len())));
    }
    for path in ["/", ".", ".."] {
        found.extend(fs::read_dir(path).map(|_| format!("folder {path} can be listed")));
    }
    found.extend(fs::write("/tmp/cleave-hostile", "").map(|()| "a file can be written in /tmp".to_owned()));
    found.extend(terminal_stdout::get_terminal_stdout().map(|_| "standard output is a terminal".to_owned()));
    found.extend(connection());
    found.extend(name_lookup());
    found
}

/// A connection to this machine: found if the network was asked, whatever it answered.
fn connection() -> Option<String> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4).ok()?;
    let address = IpSocketAddress::Ipv4(Ipv4SocketAddress { port: 1, address: (127, 0, 0, 1) });
    match socket.start_connect(&instance_network(), address) {
        Err(ErrorCode::AccessDenied | ErrorCode::NotSupported) => None,
        outcome => Some(format!("a connection was tried: {outcome:?}")),
    }
}

/// The address of a name: found if the network was asked, whatever it answered.
fn name_lookup() -> Option<String> {
    match ip_name_lookup::resolve_addresses(&instance_network(), "localhost") {
        Err(ErrorCode::AccessDenied | ErrorCode::PermanentResolverFailure | ErrorCode::NotSupported) => None,
        Err(error) => Some(format!("a name was looked up: {error:?}")),
        Ok(addresses) => {
            addresses.subscribe().block();
            match addresses.resolve_next_address() {
                Err(ErrorCode::AccessDenied | ErrorCode::PermanentResolverFailure) => None,
                outcome => Some(format!("a name was looked up: {outcome:?}")),
            }
        }
    }
}
