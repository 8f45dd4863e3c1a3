//! `mqueue node`: one of a fleet generates, the others consume.

#![allow(dead_code)]
mod lease;
