//! Durations and sizes as text. There is one parser of each in the product, and it lives beside the interface that
//! needs it most.

pub(crate) use tidewheel_api::{parse_duration_ms, parse_size};
