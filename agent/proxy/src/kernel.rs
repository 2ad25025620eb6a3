//! Whether the kernel still has the table that was written: whoever flushes the whole rule set (a firewall that is
//! reloaded, say) takes it away, and nothing but looking tells.

use std::io;

use crate::family::Family;
use crate::netlink::{Attributes, Request, Socket, attribute};
use crate::table;

const SUBSYSTEM: u8 = 10;
const GET_TABLE: u8 = 1;
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
