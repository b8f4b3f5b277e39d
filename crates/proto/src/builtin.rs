//! Task types that every agent runs itself. No package may bring one of these names: each such task of its tenant would run the
//! package from then on.

/// What the names of demonstrations begin with, such as `builtin.noop`; what comes after it is the agent's to know.
pub const PREFIX: &str = "builtin.";
/// A command line.
pub const SHELL: &str = "shell";
/// A command line that a workflow brings.
pub const RUN_SHELL: &str = "run.shell";
/// Python code that a workflow brings.
pub const RUN_PYTHON: &str = "run.python";
/// Types of tasks that are command lines.
pub const COMMANDS: [&str; 3] = [SHELL, RUN_SHELL, RUN_PYTHON];

/// Whether agents run tasks of this type themselves.
pub fn is_one(kind: &str) -> bool {
    kind.starts_with(PREFIX) || COMMANDS.contains(&kind)
}

/// All of them, as an agent says that it has code of its own for them: a trailing `*` stands for any end.
pub fn own_types() -> Vec<String> {
    std::iter::once(format!("{PREFIX}*")).chain(COMMANDS.map(String::from)).collect()
}

/// Why a package cannot bring a task of this type; one sentence without a full stop.
pub fn taken(kind: &str) -> String {
    format!("the task type '{kind}' is built in: agents run it themselves, so give the task another name")
}
