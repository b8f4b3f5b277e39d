//! One module per use case. Each takes the authenticated principal and plain values, decides what to ask of the
//! runtime, and returns wire types or a problem. Adapters (`rest`, `grpc`) hold no rule of their own.

pub(crate) mod archive;
pub(crate) mod blob;
pub(crate) mod convert;
pub(crate) mod enrolment;
pub(crate) mod filter;
pub(crate) mod get_task;
pub(crate) mod item;
pub(crate) mod list_filter;
pub(crate) mod list_tasks;
pub(crate) mod logs;
pub(crate) mod operation;
pub(crate) mod orphans;
pub(crate) mod package;
pub(crate) mod parts;
pub(crate) mod program;
pub(crate) mod queue;
pub(crate) mod queue_settings;
pub(crate) mod records;
pub(crate) mod rollout;
pub(crate) mod routing;
pub(crate) mod run;
pub(crate) mod run_history;
pub(crate) mod run_journal;
pub(crate) mod short_list;
pub(crate) mod spec;
pub(crate) mod status;
pub(crate) mod submit_task;
pub(crate) mod task_action;
pub(crate) mod task_query;
pub(crate) mod task_type;
pub(crate) mod tenant;
pub(crate) mod token;
pub(crate) mod wait_task;
pub(crate) mod worker;
pub(crate) mod workflow;
