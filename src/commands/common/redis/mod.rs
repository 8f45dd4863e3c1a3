//! A client of Redis: addresses of lists, the protocol, and a connection.

mod batches;
mod connection;
mod list;
mod resp;

pub(crate) use self::batches::{LOOK_INTERVAL, ListBatches};
pub(crate) use self::connection::{RedisConnection, RedisError, RedisServer};
pub(crate) use self::list::{RedisList, SENTINEL};
pub(crate) use self::resp::{RedisReply, texts};
