//! Reads the 12 forms of steps of the kit.

/// A scenario.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// File and title.
    pub(crate) name: String,
    /// Text of the workflow.
    pub(crate) definition: String,
    /// Text of its input.
    pub(crate) input: Option<String>,
    /// What has to hold at the end.
    pub(crate) steps: Vec<Step>,
}

/// What has to hold.
#[derive(Debug)]
pub(crate) enum Step {
    Completes,
    CompletesWith(String),
    Faults,
    FaultsWith(String),
    HasProperties(Vec<String>),
    HasValue(String, String),
    HasItems(String, usize),
    RunsFirst(String),
    RunsLast(String),
    RunsAfter(String, String),
}

/// The name of a statement by its reference; what undoes a step of a saga is the step's name and `/undo`.
pub(crate) fn name_of(reference: &str) -> String {
    let name = |reference: &str| reference.rsplit('/').next().unwrap_or("").to_owned();
    match reference.strip_suffix("/undo") {
        Some(step) => name(step) + "/undo",
        None => name(reference),
    }
}

/// The scenarios of a feature file.
pub(crate) fn read(file: &str, text: &str) -> Vec<Scenario> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if let Some(title) = line.strip_prefix("Scenario:") {
            let name = format!("{file}: {}", title.trim());
            scenarios.push(Scenario { name, definition: String::new(), input: None, steps: Vec::new() });
            continue;
        }
        let Some(step) = ["Given ", "When ", "Then ", "And "].iter().find_map(|word| line.strip_prefix(word)) else {
            continue;
        };
        let mut block = String::new();
        if let Some(open) = lines.next_if(|next| next.trim().starts_with("\"\"\"")) {
            let indent = open.len() - open.trim_start().len();
            for line in lines.by_ref().take_while(|line| line.trim() != "\"\"\"") {
                let blank = line.len() - line.trim_start().len();
                block += &line[indent.min(blank)..];
                block.push('\n');
            }
        }
        let scenario = scenarios.last_mut().unwrap_or_else(|| panic!("{file}: a step before the first scenario"));
        take(scenario, step.trim(), block);
    }
    scenarios
}

fn take(scenario: &mut Scenario, step: &str, block: String) {
    let quoted: Vec<String> = step.split('\'').skip(1).step_by(2).map(str::to_owned).collect();
    let first = || quoted.first().cloned().unwrap_or_default();
    let made = match step {
        "a workflow with definition:" => {
            scenario.definition = block;
            return;
        }
        "given the workflow input is:" => {
            scenario.input = Some(block);
            return;
        }
        "the workflow is executed" => return,
        "the workflow should complete" => Step::Completes,
        "the workflow should complete with output:" => Step::CompletesWith(block),
        "the workflow should fault" => Step::Faults,
        "the workflow should fault with error:" => Step::FaultsWith(block),
        step if step.starts_with("the workflow output should have properties") => Step::HasProperties(quoted),
        step if step.ends_with("property with value:") => Step::HasValue(first(), block),
        step if step.ends_with("items") => {
            let count = step.split_whitespace().rev().nth(1).and_then(|count| count.parse().ok());
            Step::HasItems(first(), count.unwrap_or_else(|| panic!("{step}")))
        }
        step => match step.split_once(" should run ") {
            Some((name, "first")) => Step::RunsFirst(name.to_owned()),
            Some((name, "last")) => Step::RunsLast(name.to_owned()),
            Some((name, after)) => {
                let before = after.strip_prefix("after ").unwrap_or_else(|| panic!("{step}"));
                Step::RunsAfter(name.to_owned(), before.to_owned())
            }
            None => panic!("{}: what does `{step}` mean?", scenario.name),
        },
    };
    scenario.steps.push(made);
}
