//! Reads flags, environment and file into [`Settings`], and validates these into a [`Config`]. A `Config` is always
//! valid: no later code checks its values again.
//!
//! All names, defaults and helps follow from the table [`SETTINGS`]. [`Given`] reads the settings from all sources, and
//! has the source of each one.

mod applications;
mod changes;
mod check;
mod checked;
mod descriptors;
mod entry;
mod file;
mod file_value;
mod given;
mod issuers;
mod listen;
mod memory;
mod quantities;
mod rates;
mod reference;
mod routes;
mod settings;
mod show;
mod ticks;
mod toml;
mod topics;
mod types;
mod value;
mod warnings;
pub(crate) mod weights;

pub use crate::auth::Access;
pub use changes::{ReloadReport, SettingChange};
pub use checked::{Config, Http, Limits};
pub use descriptors::DescriptorPart;
pub use given::{Flags, Given};
pub use listen::{ListenAddress, parse_address};
pub use memory::MemoryPart;
pub use quantities::{MemoryLimit, Size, Time};
pub use rates::{ByteRateLimit, RateLimit};
pub use reference::{routes_page, settings_page};
pub use routes::config::{RouteConfig, RouteHandler, SurfaceConfig};
pub(crate) use routes::rules::{RuleFault, Sources, settle, settle_surface};
pub use settings::{Preset, Reloads, SETTINGS, Setting, Settings};
pub use show::{effective, example};
pub(crate) use ticks::TICK;
pub use topics::config::TopicRuleConfig;
pub use types::{
    AccessLogFormat, CallbackConnect, CpuList, FilePath, HeaderName, HttpUrl, IoChoice, ListenIpv6, LogFilter,
    LogFormat, Pin, SandboxChoice, Secrets,
};
