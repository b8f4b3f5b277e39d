//! Workflows that are run both as a document and as a program, side by side. They say what both can say, also errors that come as
//! planned: what is retried and caught, and a saga that fails for good.

use super::{Flow, Flows, Statement, TWIN, Trip, VERSION, VersionPolicy, Who, flow, twin};
use crate::rng::Rng;

/// How many of them a run has.
const PAIRS: u64 = 2;
/// What their names begin with.
const NAME: &str = "pair-";

impl Flows {
    /// Adds some.
    pub fn pair(&mut self, rng: &mut Rng) {
        let documents: Vec<_> = self.0.iter().filter(|flow| !flow.program).cloned().collect();
        for number in 0..PAIRS {
            let name = format!("{NAME}{number}");
            let mut statements = both(rng, 0);
            if rng.chance(0.3) {
                let steps = (0..rng.range(1, 3)).map(|_| (rng.below(3) as u8, true)).collect();
                statements.push(Statement::Saga(Trip { steps, retries: 4, fails: true }));
            }
            let who = Who { name: &name, version: VERSION, policy: VersionPolicy::Pin };
            let document = flow(who, statements, &documents);
            self.0.push(twin(&document));
            self.0.push(document);
        }
    }

    /// One of them: the document and the program.
    pub fn pick_pair(&self, rng: &mut Rng) -> Option<(&Flow, &Flow)> {
        let name = format!("{NAME}{}", rng.below(PAIRS));
        let document = self.find(&name, VERSION)?;
        Some((document, self.find(&format!("{name}{TWIN}"), VERSION)?))
    }
}

/// Statements that mean the same in both. Where an error is caught there are no branches: a document stops the others at once.
fn both(rng: &mut Rng, depth: u32) -> Vec<Statement> {
    let mut made = Vec::new();
    for _ in 0..rng.range(1, 3) {
        made.push(match rng.below(10) {
            0 | 1 => Statement::Step(rng.below(3) as u8),
            2 => Statement::Wait(rng.range(1, 2_000)),
            3 => Statement::Add(rng.range(1, 9) as i64),
            4 => Statement::Child(0),
            5 => Statement::Map(rng.range(1, 4), rng.range(1, 3) as u32),
            6 => {
                let steps = (0..rng.range(1, 3)).map(|_| (rng.below(3) as u8, false)).collect();
                Statement::Saga(Trip { steps, retries: 0, fails: false })
            }
            7 if depth < 2 => {
                let number = rng.range(2, 3);
                Statement::Fork((0..number).map(|_| both(rng, depth + 1)).collect())
            }
            8 => {
                let body = vec![Statement::Step(rng.below(3) as u8), Statement::Wait(rng.range(1, 300))];
                Statement::For(rng.range(1, 3), body)
            }
            _ => {
                let mut body = vec![Statement::Step(rng.below(3) as u8)];
                if rng.chance(0.7) {
                    body.push(Statement::Fails(rng.below(3) as u8));
                    body.push(Statement::Step(0));
                }
                Statement::Try(body, rng.chance(0.6))
            }
        });
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_of_a_pair_give_the_same() {
        for seed in 0..40 {
            let mut rng = Rng::new(seed);
            let mut flows = Flows::new(&mut rng);
            flows.pair(&mut rng);
            let (document, program) = flows.pick_pair(&mut rng).expect("there are some");
            assert!(!document.program && program.program);
            let results = |flow: &Flow| flows.results(&flow.name, VERSION, 3);
            assert_eq!(results(document), results(program));
        }
    }
}
