//! `tidewheel init`

use std::path::{Path, PathBuf};

use clap::Args;

use super::Ctx;
use crate::fail::{Exit, Failure, Outcome, While};

/// Start a package: a folder with a task, a test and a README
///
/// Writes `pyproject.toml`, `tasks.py`, `test_tasks.py` and `README.md`. The folder runs at once with `tidewheel dev`,
/// and goes to a server with `tidewheel deploy`. Nothing that exists is overwritten.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel init reports\n  tidewheel init reports --dir packages/reports")]
pub(crate) struct Init {
    /// Name of the package: letters, digits, `-` and `_`
    name: String,
    /// Folder to write to; the name if absent
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The files and what is in them; `@NAME@` stands for the package.
const FILES: &[(&str, &str)] = &[
    ("pyproject.toml", include_str!("init/pyproject.toml")),
    ("tasks.py", include_str!("init/tasks.py")),
    ("test_tasks.py", include_str!("init/test_tasks.py")),
    ("README.md", include_str!("init/README.md")),
    (".gitignore", ".tidewheel/\n__pycache__/\n*.zip\n"),
];

impl Init {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        check(&self.name)?;
        let dir = self.dir.clone().unwrap_or_else(|| PathBuf::from(&self.name));
        let taken: Vec<_> = FILES.iter().map(|(name, _)| *name).filter(|name| dir.join(name).exists()).collect();
        if !taken.is_empty() {
            let why = format!("{} already has {}", dir.display(), taken.join(", "));
            return Err(Failure::new(Exit::Missing, format!("cannot start package '{}'", self.name), why)
                .next(format!("tidewheel init {} --dir OTHER", self.name)));
        }
        std::fs::create_dir_all(&dir).doing(Exit::Usage, || format!("cannot make {}", dir.display()))?;
        for (name, text) in FILES {
            write(&dir.join(name), &text.replace("@NAME@", &self.name))?;
        }
        ctx.out.note(&format!("wrote {} files to {}", FILES.len(), dir.display()));
        ctx.out.note(&format!("next: cd {} && tidewheel dev", dir.display()));
        let names: Vec<_> = FILES.iter().map(|(name, _)| *name).collect();
        ctx.out.value(&serde_json::json!({"name": self.name, "dir": dir, "files": names}))
    }
}

fn check(name: &str) -> Outcome {
    let good = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= 100
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        && !name.ends_with(['-', '_']);
    if good {
        return Ok(());
    }
    let why = "a name begins with a letter and has letters, digits, '-' and '_'";
    Err(Failure::usage(format!("cannot start package '{}'", crate::text::one_line(name)), why))
}

fn write(path: &Path, text: &str) -> Outcome {
    std::fs::write(path, text).doing(Exit::Usage, || format!("cannot write {}", path.display()))
}
