//! What an agent serves: bounds on the tasks that the server gives it, from the words of whoever starts it.

/// Bounds on the tasks an agent is given. An empty list bounds nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serves {
    /// `low`, `medium`, `high`
    pub priorities: Vec<String>,
    /// `short` (below 1 min), `medium` or unknown, `long` (above 10 min)
    pub durations: Vec<String>,
    /// Executor keys of routing rules; `automated` = tasks without one.
    pub executors: Vec<String>,
}

/// What each pool serves. A task of a class runs in its own pool first, and in one further down when no worker there has
/// a free permit: the server prefers the worker that serves less.
const POOLS: [(&str, &[&str]); 3] =
    [("dedicated", &["high"]), ("shared", &["high", "medium"]), ("best-effort", &["high", "medium", "low"])];

impl Serves {
    /// Reads bounds such as `priority=high`, `duration=short,medium` or `executor=gpu`; several of one kind add up.
    pub fn parse<'a>(bounds: impl IntoIterator<Item = &'a str>) -> Result<Serves, String> {
        let mut out = Serves::default();
        for bound in bounds {
            let wanted = "write priority=, duration= or executor= and one or more values";
            let (kind, values) = bound.split_once('=').ok_or_else(|| format!("'{bound}' is no bound: {wanted}"))?;
            let (list, known): (_, &[&str]) = match kind {
                "priority" => (&mut out.priorities, &["low", "medium", "high"]),
                "duration" => (&mut out.durations, &["short", "medium", "long"]),
                "executor" => (&mut out.executors, &[]),
                _ => return Err(format!("'{kind}' is nothing that a worker serves: {wanted}")),
            };
            for value in values.split(',').map(str::trim) {
                if value.is_empty() || !(known.is_empty() || known.contains(&value)) {
                    let choice = if known.is_empty() { "an executor key".to_owned() } else { known.join(", ") };
                    return Err(format!("'{value}' is no {kind}: {choice}"));
                }
                if !list.iter().any(|have| have == value) {
                    list.push(value.to_owned());
                }
            }
        }
        Ok(out)
    }

    /// The same with the priorities of a pool: `dedicated`, `shared` or `best-effort`.
    pub fn in_pool(mut self, pool: &str) -> Result<Serves, String> {
        let found = POOLS.iter().find(|(name, _)| *name == pool);
        let (_, priorities) = found.ok_or_else(|| format!("'{pool}' is no pool: dedicated, shared or best-effort"))?;
        if !self.priorities.is_empty() {
            return Err("a pool says which priorities are served; give one of both".to_owned());
        }
        self.priorities = priorities.iter().map(|name| (*name).to_owned()).collect();
        Ok(self)
    }

    pub(crate) fn message(&self) -> Option<tidewheel_proto::v1::Serves> {
        (*self != Serves::default()).then(|| tidewheel_proto::v1::Serves {
            priorities: self.priorities.clone(),
            durations: self.durations.clone(),
            executors: self.executors.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_add_up_and_wrong_ones_say_what_is_right() {
        let serves =
            Serves::parse(["priority=high, medium", "priority=high", "duration=short", "executor=gpu"]).unwrap();
        assert_eq!(serves.priorities, ["high", "medium"]);
        assert_eq!((serves.durations, serves.executors), (vec!["short".to_owned()], vec!["gpu".to_owned()]));
        for (bound, word) in [("high", "priority="), ("speed=high", "speed"), ("priority=urgent", "low, medium, high")]
        {
            assert!(Serves::parse([bound]).unwrap_err().contains(word), "{bound}");
        }
        assert!(Serves::parse(["executor="]).is_err());
    }

    #[test]
    fn a_pool_is_a_set_of_priorities() {
        let pool = |name| Serves::default().in_pool(name);
        assert_eq!(pool("dedicated").unwrap().priorities, ["high"]);
        assert_eq!(pool("best-effort").unwrap().priorities.len(), 3);
        assert!(pool("fast").unwrap_err().contains("best-effort"));
        assert!(Serves::parse(["priority=low"]).unwrap().in_pool("shared").is_err());
    }
}
