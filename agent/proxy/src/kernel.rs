//! What only the kernel knows of the table: whether it is still there (whoever flushes the whole rule set, a firewall that is
//! reloaded, say, takes it away, and nothing but looking tells), and which clients stick to which endpoint.

use std::io;
use std::net::IpAddr;

use crate::family::Family;
use crate::netlink::{Attributes, Request, Socket, attribute, attributes};
use crate::table::{self, Command};

const SUBSYSTEM: u8 = 10;
const GET_TABLE: u8 = 1;
const GET_ELEMENTS: u8 = 13;
const TABLE_NAME: u16 = 1;
const TABLE_HANDLE: u16 = 4;

/// The table's number, which no two tables ever share; `None` if there is no such table.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn table_handle(family: Family) -> io::Result<Option<u64>> {
    let request = Request {
        subsystem: SUBSYSTEM,
        message: GET_TABLE,
        family: family.number(),
        attributes: Attributes::default().text(TABLE_NAME, table::NAME),
    };
    let mut handle = None;
    let outcome = Socket::open()?.get(&request, |found| {
        let bytes = attribute(found, TABLE_HANDLE).and_then(|b| b.first_chunk());
        handle = bytes.map(|bytes| u64::from_be_bytes(*bytes));
    });
    match outcome {
        Ok(()) => Ok(handle),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Clients that are carried over when everything is made anew.
const MOST_CLIENTS: usize = 50_000;

/// The commands that give `sets`, made anew, the clients that they have now.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn keep_clients(family: Family, sets: &[String]) -> io::Result<Vec<Command>> {
    let mut commands = Vec::new();
    let socket = Socket::open()?;
    for set in sets {
        let request = Request {
            subsystem: SUBSYSTEM,
            message: GET_ELEMENTS,
            family: family.number(),
            attributes: Attributes::default().text(TABLE_NAME, table::NAME).text(2, set),
        };
        let outcome = socket.dump(&request, |message| {
            let list = attribute(message, 3).unwrap_or_default();
            let clients = attributes(list).filter_map(|(_, element)| client(element));
            commands.extend(clients.map(|(address, seconds)| Command::AddClient(set.clone(), address, seconds)));
        });
        match outcome {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // A set of a new endpoint.
            _ => {}
        }
        if commands.len() > MOST_CLIENTS {
            commands.truncate(MOST_CLIENTS);
            break;
        }
    }
    Ok(commands)
}

/// Address and seconds left; `None` of one that is just being forgotten.
fn client(element: &[u8]) -> Option<(IpAddr, u64)> {
    let key = attribute(attribute(element, 1)?, 1)?;
    let address = match key.len() {
        4 => IpAddr::from(*key.first_chunk::<4>()?),
        _ => IpAddr::from(*key.first_chunk::<16>()?),
    };
    let milliseconds = u64::from_be_bytes(*attribute(element, 5)?.first_chunk()?);
    (milliseconds >= 1000).then_some((address, milliseconds / 1000))
}
