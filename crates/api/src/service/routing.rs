//! Routing: rules of a tenant that say where its tasks go. Kept as one JSON record under the tenant's settings, compiled
//! once per version, looked at when a task is submitted. Without rules a submit is asked one question that costs nothing.
//!
//! A rule gives a queue to tasks whose submitter named none, an executor key, or both. The first that matches decides.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tidewheel_engine::id::{Name, TenantId};
use tidewheel_engine::mutation::RecordKind;
use tidewheel_engine::serve::{PLAIN_EXECUTOR, class_name};
use tidewheel_engine::task::{Spec, class_of};
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use super::{records, spec, task_type};
use crate::auth::Principal;
use crate::problem::{Failure, from_refusal};
use crate::state::Api;
use crate::text::{is_name, nearest};

/// Rules of one tenant. Each is looked at for every task that those before it do not match.
const MAX_RULES: usize = 256;
/// Characters of a pattern.
const MAX_PATTERN: usize = 200;
/// Stars in a pattern. Each costs one more walk over the text at most.
const MAX_STARS: usize = 8;
/// Key of the record.
const KEY: &str = "routing";
/// Tenants whose rules are held compiled; beyond, the cache starts anew.
const CACHE_ENTRIES: usize = 10_000;
/// Who may do a task's work.
const KINDS: [&str; 3] = ["automated", "manual", "integration"];

/// The rules as they are stored.
#[derive(Default, Serialize, Deserialize)]
struct Stored {
    rules: Vec<rest::RoutingRule>,
}

/// What routing looks at.
pub(crate) struct Subject<'a> {
    pub(crate) task_type: &'a str,
    pub(crate) priority: u8,
    pub(crate) workflow: Option<&'a str>,
    pub(crate) labels: Labels<'a>,
}

impl Subject<'_> {
    /// Bounds of what came with the task, as a submit has them: patterns are compared with what is known to be short. What
    /// its type gives was checked when the type was registered.
    fn check(&self) -> Result<(), Failure> {
        spec::check_type(self.task_type)?;
        if let Some(id) = self.workflow {
            spec::check_key(id, "/workflow_id")?;
        }
        match &self.labels {
            Labels::Sent(map) => spec::check_labels(*map),
            Labels::Told(map) => spec::check_labels(*map),
            Labels::Kept(_) => Ok(()),
        }
    }
}

/// Labels of a task, as they came.
pub(crate) enum Labels<'a> {
    /// Of a REST body.
    Sent(&'a BTreeMap<String, String>),
    /// Of a message.
    Told(&'a HashMap<String, String>),
    /// Of the task's type.
    Kept(&'a [(Name, Name)]),
}

impl Labels<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        match self {
            Labels::Sent(map) => map.get(name).map(String::as_str),
            Labels::Told(map) => map.get(name).map(String::as_str),
            Labels::Kept(list) => list.iter().find(|(known, _)| **known == *name).map(|(_, value)| &**value),
        }
    }
}

/// A rule, ready to be looked at.
#[derive(Debug)]
pub(crate) struct Rule {
    name: Name,
    task_type: Option<String>,
    /// Bit n = priority class n; 0 = all.
    classes: u8,
    /// Every task is automated: a rule for another kind never matches.
    automated: bool,
    workflow: Option<String>,
    labels: Vec<(String, String)>,
    pub(crate) queue: Option<Name>,
    executor: Option<Name>,
}

impl Rule {
    fn compile(rule: &rest::RoutingRule) -> Rule {
        let class = |name: &String| (0..3).find(|class| class_name(*class) == name).map_or(0, |class| 1 << class);
        Rule {
            name: rule.name.as_str().into(),
            task_type: rule.task_type.clone(),
            classes: rule.priority.iter().map(class).fold(0, |all, bit| all | bit),
            automated: rule.kind.as_deref().is_none_or(|kind| kind == KINDS[0]),
            workflow: rule.workflow.clone(),
            labels: rule.labels.clone().into_iter().collect(),
            queue: rule.queue.as_deref().map(Name::from),
            executor: rule.executor.as_deref().map(Name::from),
        }
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        let like = |pattern: &Option<String>, text: Option<&str>| {
            pattern.as_deref().is_none_or(|pattern| text.is_some_and(|text| is_like(pattern, text)))
        };
        self.automated
            && (self.classes == 0 || self.classes & (1 << class_of(subject.priority)) != 0)
            && like(&self.task_type, Some(subject.task_type))
            && like(&self.workflow, subject.workflow)
            && self.labels.iter().all(|(name, value)| subject.labels.get(name).is_some_and(|text| is_like(value, text)))
    }

    /// Writes the decision into a task.
    pub(crate) fn mark(&self, spec: &mut Spec) {
        spec.rule = Some(self.name.clone());
        spec.executor = self.executor.clone().filter(|key| **key != *PLAIN_EXECUTOR);
    }
}

/// Rules of a tenant, in order.
#[derive(Debug)]
pub(crate) struct Rules(Vec<Rule>);

impl Rules {
    /// The rule that decides. A subject above the bounds of a task is refused before any pattern is compared with it.
    pub(crate) fn find(&self, subject: &Subject<'_>) -> Result<Option<&Rule>, Failure> {
        subject.check()?;
        Ok(self.0.iter().find(|rule| rule.matches(subject)))
    }
}

/// Compiled rules by tenant, with the version they are of.
#[derive(Default)]
pub(crate) struct RuleCache(RwLock<HashMap<TenantId, (u64, Arc<Rules>)>>);

/// The rules of a tenant, or `None` when it has none.
pub(crate) fn of(api: &Api, tenant: TenantId) -> Option<Arc<Rules>> {
    let directory = api.runtime.directory();
    if !directory.has_settings() {
        return None;
    }
    let record = directory.record(RecordKind::Setting, tenant, KEY)?;
    if let Some((version, rules)) = api.rules.0.read().get(&tenant)
        && *version == record.version
    {
        return Some(rules.clone()).filter(|rules| !rules.0.is_empty());
    }
    let stored: Stored = serde_json::from_str(&record.value).ok()?;
    let rules = Arc::new(Rules(stored.rules.iter().map(Rule::compile).collect()));
    let mut cache = api.rules.0.write();
    if cache.len() >= CACHE_ENTRIES {
        cache.clear();
    }
    cache.insert(tenant, (record.version, rules.clone()));
    Some(rules).filter(|rules| !rules.0.is_empty())
}

/// The rules as they are shown.
pub(crate) fn get(api: &Api, caller: &Principal) -> rest::Routing {
    let record = api.runtime.directory().record(RecordKind::Setting, caller.tenant, KEY);
    let version = record.as_ref().map_or(0, |record| record.version);
    let stored: Stored = record.and_then(|record| serde_json::from_str(&record.value).ok()).unwrap_or_default();
    rest::Routing { rules: stored.rules, version }
}

/// The version for `ETag`.
pub(crate) fn etag(routing: &rest::Routing) -> String {
    format!("\"{}\"", routing.version)
}

/// Replaces all rules. They hold for what is submitted after the answer.
pub(crate) async fn put(
    api: &Api,
    caller: &Principal,
    wanted: rest::Routing,
    if_match: Option<&str>,
) -> Result<rest::Routing, Failure> {
    check(api, caller, &wanted.rules)?;
    let expected = match if_match.map(str::trim) {
        None | Some("*") => None,
        Some(text) => {
            let version = text
                .trim_matches('"')
                .parse()
                .map_err(|_| Failure::new(Code::PreconditionFailed, "If-Match names no version of the routing rules."));
            Some(version?)
        }
    };
    let stored = Stored { rules: wanted.rules };
    let put = records::put(api, RecordKind::Setting, caller.tenant, KEY, &stored, expected).await?;
    let record = put.map_err(from_refusal)?;
    Ok(rest::Routing { rules: stored.rules, version: record.map_or(0, |record| record.version) })
}

/// Where a task would go.
pub(crate) fn test(api: &Api, caller: &Principal, task: &rest::RouteTest) -> Result<rest::Route, Failure> {
    spec::check_type(&task.task_type)?;
    if let Some(name) = &task.queue {
        check_queue(api, caller, name, "/queue")?;
    }
    let given = task_type::defaults(api, caller.tenant, &task.task_type);
    let priority = match &task.priority {
        Some(value) => spec::priority(value)?,
        None => given.as_ref().map_or(spec::DEFAULT_PRIORITY, |g| g.priority),
    };
    let subject = Subject {
        task_type: &task.task_type,
        priority,
        workflow: task.workflow_id.as_deref(),
        labels: Labels::Sent(&task.labels),
    };
    subject.check()?;
    let rules = of(api, caller.tenant);
    let rule = match &rules {
        Some(rules) => rules.find(&subject)?,
        None => None,
    };
    let named = task.queue.as_deref().map(Name::from).or_else(|| rule.and_then(|rule| rule.queue.clone()));
    let queue = named.or_else(|| given.as_ref().and_then(|g| g.queue.clone()));
    Ok(rest::Route {
        queue: queue.unwrap_or_else(|| api.default_queue.clone()).to_string(),
        executor: rule.and_then(|rule| rule.executor.as_deref()).unwrap_or(PLAIN_EXECUTOR).to_owned(),
        rule: rule.map(|rule| rule.name.to_string()),
        priority_class: class_name(class_of(priority)).to_owned(),
    })
}

/// The rule that sends tasks to a queue, if one does.
pub(crate) fn rule_to(api: &Api, tenant: TenantId, queue: &str) -> Option<Name> {
    let rules = of(api, tenant)?;
    rules.0.iter().find(|rule| rule.queue.as_deref() == Some(queue)).map(|rule| rule.name.clone())
}

fn check(api: &Api, caller: &Principal, rules: &[rest::RoutingRule]) -> Result<(), Failure> {
    if rules.len() > MAX_RULES {
        return Err(Failure::field("/rules", format!("a tenant has at most {MAX_RULES} routing rules")));
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = |field: &str| format!("/rules/{index}/{field}");
        if !is_name(&rule.name) {
            let detail = "the name of a rule has 1 to 200 letters, digits, '.', '_' or '-'";
            return Err(Failure::field(at("name"), detail));
        }
        if rules[..index].iter().any(|earlier| earlier.name == rule.name) {
            return Err(Failure::field(at("name"), format!("there is a rule '{}' before this one", rule.name)));
        }
        check_conditions(rule, &at)?;
        if rule.queue.is_none() && rule.executor.is_none() {
            return Err(Failure::field(at("queue"), "a rule gives a queue, an executor, or both"));
        }
        if let Some(queue) = &rule.queue {
            check_queue(api, caller, queue, &at("queue"))?;
        }
        if rule.executor.as_ref().is_some_and(|key| !is_name(key)) {
            let detail = "an executor key has 1 to 200 letters, digits, '.', '_' or '-'";
            return Err(Failure::field(at("executor"), detail));
        }
    }
    Ok(())
}

fn check_conditions(rule: &rest::RoutingRule, at: &dyn Fn(&str) -> String) -> Result<(), Failure> {
    let pattern = |text: &str, field: &str| {
        if text.is_empty() || text.chars().count() > MAX_PATTERN || text.chars().any(char::is_control) {
            let detail = format!("a pattern has 1 to {MAX_PATTERN} characters, none of them a control character");
            return Err(Failure::field(at(field), detail));
        }
        if text.chars().filter(|c| *c == '*').count() > MAX_STARS {
            let detail = format!("a pattern of the rule '{}' has more than {MAX_STARS} stars", rule.name);
            return Err(Failure::field(at(field), detail));
        }
        Ok(())
    };
    if let Some(text) = &rule.task_type {
        pattern(text, "type")?;
    }
    if let Some(text) = &rule.workflow {
        pattern(text, "workflow")?;
    }
    for (index, name) in rule.priority.iter().enumerate() {
        if (0..3).all(|class| class_name(class) != name) {
            return Err(Failure::field(at(&format!("priority/{index}")), "a priority class is low, medium or high"));
        }
    }
    if rule.kind.as_deref().is_some_and(|kind| !KINDS.contains(&kind)) {
        return Err(Failure::field(at("kind"), "a kind is automated, manual or integration"));
    }
    if rule.labels.len() > spec::MAX_LABELS {
        return Err(Failure::field(at("labels"), format!("a task has at most {} labels", spec::MAX_LABELS)));
    }
    for (name, value) in &rule.labels {
        pattern(name, &format!("labels/{name}"))?;
        pattern(value, &format!("labels/{name}"))?;
    }
    Ok(())
}

fn check_queue(api: &Api, caller: &Principal, name: &str, pointer: &str) -> Result<(), Failure> {
    let directory = api.runtime.directory();
    if directory.queue(caller.tenant, name).is_some_and(|queue| !queue.deleted) {
        return Ok(());
    }
    let queues = directory.queues(caller.tenant);
    let near = nearest(name, queues.iter().filter(|q| !q.deleted).map(|q| &*q.name));
    let hint = match near {
        Some(near) => format!("did you mean '{near}'?"),
        None => "create it first".to_owned(),
    };
    let shown: String = name.chars().take(80).collect();
    Err(Failure::field(pointer, format!("there is no queue '{shown}'; {hint}")))
}

/// Whether a text is what a pattern says: `*` stands for any characters, `?` for one. Goes back to the last star only, so
/// that no pattern takes longer than the product of both lengths.
fn is_like(pattern: &str, text: &str) -> bool {
    let (mut rest, mut left) = (pattern.chars(), text.chars());
    let mut star: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let here = (rest.clone(), left.clone());
        match (rest.next(), left.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                star = Some((rest.clone(), here.1.clone()));
                left = here.1;
                continue;
            }
            (Some('?'), Some(_)) => continue,
            (Some(p), Some(t)) if p == t => continue,
            _ => {}
        }
        // It does not fit here: the last star takes one character more.
        let Some((after, from)) = &mut star else { return false };
        if from.next().is_none() {
            return false;
        }
        (rest, left) = (after.clone(), from.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_know_stars_and_question_marks() {
        let yes = [
            ("*", ""),
            ("*", "a"),
            ("a*", "a"),
            ("a*c", "abbc"),
            ("*.pdf", "x.y.pdf"),
            ("a?c", "abc"),
            ("a*b*c", "axbxbxc"),
        ];
        for (pattern, text) in yes {
            assert!(is_like(pattern, text), "{pattern} {text}");
        }
        let no = [("", "a"), ("a", ""), ("a*c", "ab"), ("?", ""), ("?", "ab"), ("pdf.*", "pdf"), ("A", "a")];
        for (pattern, text) in no {
            assert!(!is_like(pattern, text), "{pattern} {text}");
        }
        assert!(!is_like(&"*a".repeat(100), &"a".repeat(99)), "and does not take for ever");
    }

    #[test]
    fn the_first_rule_whose_conditions_all_hold_decides() {
        let rule = |name: &str, build: &dyn Fn(&mut rest::RoutingRule)| {
            let mut rule = rest::RoutingRule { name: name.to_owned(), ..Default::default() };
            rule.queue = Some(name.to_owned());
            build(&mut rule);
            Rule::compile(&rule)
        };
        let rules = Rules(vec![
            rule("manual", &|r| r.kind = Some("manual".to_owned())),
            rule("urgent-pdf", &|r| {
                r.task_type = Some("pdf.*".to_owned());
                r.priority = vec!["high".to_owned()];
            }),
            rule("pdf", &|r| r.task_type = Some("pdf.*".to_owned())),
            rule("billing", &|r| r.workflow = Some("billing-*".to_owned())),
            rule("eu", &|r| drop(r.labels.insert("region".to_owned(), "eu-*".to_owned()))),
        ]);
        let found = |task_type, priority, workflow, region: Option<&'static str>| {
            let labels = region.map(|value: &str| ("region".to_owned(), value.to_owned())).into_iter().collect();
            let subject = Subject { task_type, priority, workflow, labels: Labels::Sent(&labels) };
            rules.find(&subject).unwrap().map(|rule| rule.name.to_string())
        };
        let name = |text: &str| Some(text.to_owned());
        assert_eq!(found("pdf.render", 9, None, None), name("urgent-pdf"));
        assert_eq!(found("pdf.render", 6, None, None), name("pdf"));
        assert_eq!(found("mail", 6, Some("billing-7"), Some("eu-1")), name("billing"));
        assert_eq!(found("mail", 6, Some("other"), Some("eu-1")), name("eu"));
        assert_eq!(found("mail", 6, None, None), None);
    }
}
