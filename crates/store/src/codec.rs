//! The record codec.
