//! What a run may give that went from one version of its workflow to another.

use super::{CAUGHT, Flows, Statement};

/// Numbers that are looked at, at most.
const MOST: usize = 2_000;

impl Flows {
    /// The same as [`Flows::results`] for a run of a document: for each statement of its list, the versions that it followed from
    /// where that one began to where it ended. `None` = that may be too much, or a version does not have the statement.
    pub fn moved_results(&self, name: &str, n: i64, open: &[Vec<&str>]) -> Option<Vec<i64>> {
        let mut values = vec![n];
        for (at, versions) in open.iter().enumerate() {
            let of = |version: &&str| self.find(name, version)?.statements.get(at);
            let statements: Vec<&Statement> = versions.iter().map(of).collect::<Option<_>>()?;
            values = each(&values, |n| self.mixed(&statements, n))?;
        }
        Some(values)
    }

    /// What comes of a statement that was one of these, or part of each.
    fn mixed(&self, statements: &[&Statement], n: i64) -> Option<Vec<i64>> {
        let mut found: Vec<i64> = statements.iter().flat_map(|statement| self.one(statement, n)).collect();
        if statements.len() > 1 {
            found.extend(self.inside(statements, n)?);
        }
        found.sort_unstable();
        found.dedup();
        (found.len() <= MOST).then_some(found)
    }

    fn inside(&self, statements: &[&Statement], n: i64) -> Option<Vec<i64>> {
        let lists = |of: &dyn Fn(&Statement) -> Option<Vec<Statement>>| -> Vec<Vec<Statement>> {
            statements.iter().filter_map(|statement| of(statement)).collect()
        };
        Some(match statements[0] {
            Statement::Fork(branches) => {
                let mut sums = vec![0];
                for at in 0..branches.len() {
                    let branch = lists(&|statement| match statement {
                        Statement::Fork(branches) => branches.get(at).cloned(),
                        _ => None,
                    });
                    let of_branch = self.mixed_list(&branch, n)?;
                    sums = each(&sums, |sum| Some(of_branch.iter().map(|m| sum + m).collect()))?;
                }
                sums
            }
            Statement::For(..) => {
                let bodies = lists(&|statement| match statement {
                    Statement::For(_, body) => Some(body.clone()),
                    _ => None,
                });
                let times = statements.iter().filter_map(|statement| match statement {
                    Statement::For(times, _) => Some(*times),
                    _ => None,
                });
                let (least, most) = times.fold((u64::MAX, 0), |(least, most), n| (least.min(n), most.max(n)));
                let (mut values, mut found) = (vec![n], Vec::new());
                for time in 1..=most {
                    values = each(&values, |n| self.mixed_list(&bodies, n))?;
                    if time >= least {
                        found.extend(&values);
                    }
                }
                found
            }
            Statement::Try(..) => {
                let bodies = lists(&|statement| match statement {
                    Statement::Try(body, _) => Some(body.clone()),
                    _ => None,
                });
                let mut found = self.mixed_list(&bodies, n)?;
                found.push(CAUGHT);
                found
            }
            _ => Vec::new(),
        })
    }

    /// Each statement is that of one of the lists, and the list ends where one of them does.
    fn mixed_list(&self, lists: &[Vec<Statement>], n: i64) -> Option<Vec<i64>> {
        let (mut values, mut found) = (vec![n], Vec::new());
        for at in 0.. {
            if lists.iter().any(|list| list.len() == at) {
                found.extend(&values);
            }
            let statements: Vec<&Statement> = lists.iter().filter_map(|list| list.get(at)).collect();
            if statements.is_empty() {
                break;
            }
            values = each(&values, |n| self.mixed(&statements, n))?;
        }
        Some(found)
    }
}

/// What comes of each number, once each.
fn each(values: &[i64], of: impl Fn(i64) -> Option<Vec<i64>>) -> Option<Vec<i64>> {
    let mut found = Vec::new();
    for n in values {
        found.extend(of(*n)?);
        if found.len() > MOST {
            return None;
        }
    }
    found.sort_unstable();
    found.dedup();
    Some(found)
}

#[cfg(test)]
mod tests {
    use crate::flow::{Flows, NEXT_VERSION, VERSION};
    use crate::rng::Rng;

    #[test]
    fn a_run_of_one_version_gives_what_that_version_gives_and_one_of_two_more() {
        for seed in 0..20 {
            let mut flows = Flows::new(&mut Rng::new(seed));
            flows.grow(&mut Rng::new(seed));
            let later = flows.iter().filter(|flow| flow.version == NEXT_VERSION && !flow.program);
            for (old, new) in later.filter_map(|new| Some((flows.find(&new.name, VERSION)?, new))) {
                let list = |flow: &crate::flow::Flow, versions: &[&'static str]| {
                    vec![versions.to_vec(); flow.statements.len()]
                };
                for flow in [old, new] {
                    let mut expected = flows.results(&flow.name, flow.version, 3);
                    expected.sort_unstable();
                    let found = flows.moved_results(&flow.name, 3, &list(flow, &[flow.version]));
                    assert_eq!(found, Some(expected), "{}:{}", flow.name, flow.version);
                }
                if old.statements.len() == new.statements.len() {
                    let both = flows.moved_results(&old.name, 3, &list(old, &[VERSION, NEXT_VERSION]));
                    let one = flows.results(&old.name, VERSION, 3);
                    assert!(both.is_none_or(|both| one.iter().all(|n| both.contains(n))), "{}", old.name);
                }
            }
        }
    }
}
