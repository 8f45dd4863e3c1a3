//! Doing things on time: when each is due, and waking then.

mod alarm;
mod schedule;

pub(crate) use alarm::Alarm;
pub(crate) use schedule::Schedule;
