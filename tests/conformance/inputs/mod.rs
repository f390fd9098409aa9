//! Inputs of the fuzz targets, made from seeds. Most inputs are valid, since random bytes rarely are.

mod client_address;
mod command;
mod frames;
mod hub;
mod requests;
mod resolution;
mod settings;

pub(crate) use client_address::client_address;
pub(crate) use command::command;
pub(crate) use frames::frames;
pub(crate) use hub::hub;
pub(crate) use requests::requests;
pub(crate) use resolution::resolution;
pub(crate) use settings::settings;
