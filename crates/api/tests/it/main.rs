//! The interfaces over a real runtime and the memory store. Requests go through the whole router; the gRPC tests and
//! those of the listener go over a socket.

mod backups;
mod document;
mod enrolment;
mod filters;
mod grpc;
mod histories;
mod hostile;
mod items;
mod listener;
mod metrics;
mod names;
mod node;
mod once;
mod operations;
mod package_use;
mod packages;
mod parts;
mod promises;
mod queues;
mod refusals;
mod results;
mod roles;
mod routing;
mod runs;
mod search;
mod streams;
mod strict;
mod submit;
mod tasks;
mod tenancy;
mod values;
mod workflows;
