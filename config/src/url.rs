//! Owns the parts that URLs in config have: users and passwords, hosts and ports.

use std::net::{Ipv4Addr, Ipv6Addr};

/// What [`decoded`] takes, as a pattern without its ends.
pub(crate) const SECRET: &str = r"([A-Za-z0-9._~!$&()*+;=-]|%[0-9A-Fa-f]{2})+";
/// What [`host_and_port`] takes for a host, as a pattern. It cannot say what an IPv6 address is.
pub(crate) const HOST: &str = r"([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])";

/// What is wrong with a URL, and the fix. Nothing of the URL is repeated: it may have a password, and wherever, if it is
/// malformed.
pub(crate) type Fault = (&'static str, &'static str);

/// The host, without the brackets of an IPv6 address, and the port of `host` or `host:port`.
pub(crate) fn host_and_port(place: &str) -> Result<(&str, Option<u16>), Fault> {
    let in_brackets = place.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, port) = in_brackets.unwrap_or_else(|| place.split_at(place.find(':').unwrap_or(place.len())));
    if host.is_empty() {
        return Err(("has no host", "write the name or the address of the server, such as 127.0.0.1"));
    }
    let is_host = match in_brackets {
        Some(_) => host.parse::<Ipv6Addr>().is_ok(),
        None => {
            host.starts_with(|c: char| c.is_ascii_alphanumeric())
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        }
    };
    if !is_host {
        return Err((
            "has a host that is neither a name nor an address",
            "write one such as host.example.com, 192.0.2.1, or in brackets [2001:db8::1]",
        ));
    }
    if port.is_empty() {
        return Ok((host, None));
    }
    let number = port.strip_prefix(':').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let number = number.and_then(|digits| digits.parse().ok()).filter(|number| *number > 0);
    let number = number.ok_or((
        "has a port that is not a number from 1 to 65535",
        "write one behind the `:`, or leave both out for the usual one",
    ))?;
    Ok((host, Some(number)))
}

/// A user or a password as it is meant: `%41` is the byte that it stands for. None if a URL cannot have it there.
pub(crate) fn decoded(text: &str) -> Option<String> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._~!$&()*+;=-".contains(byte);
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    let mut decoded = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => u8::try_from(digit(bytes.next())? * 16 + digit(bytes.next())?).ok()?,
            byte => Some(byte).filter(plain)?,
        });
    }
    String::from_utf8(decoded).ok().filter(|text| !text.is_empty())
}

pub(crate) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || host.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback())
}
