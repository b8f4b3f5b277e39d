//! Requirements: what tasks need of a worker, interned, so that lanes and starved queues name it by a number.

use super::Partition;
use crate::id::{Name, TenantId, TypeId};
use crate::mutation::RecordKind;
use crate::planted::Bug;
use crate::ready::RequirementId;
use crate::serve::Length;
use crate::task::{Resources, Spec, Task, class_of};

/// What tasks of a lane need of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Requirement {
    pub(crate) kind: Name,
    /// The type, when its tasks bring no package of their own: then what is registered for it decides.
    pub(crate) bare: Option<TypeId>,
    pub(crate) requires: Vec<(Name, Name)>,
    pub(crate) resources: Resources,
    /// Priority class. Waiting raises a task in its line, never into another class of workers.
    pub(crate) class: u8,
    pub(crate) length: Length,
    pub(crate) executor: Option<Name>,
}

/// A task type.
#[derive(Debug)]
pub(crate) struct TypeWork {
    pub(crate) name: Name,
    /// Of tasks that ask for nothing special, by priority class: without a package of their own, and with one.
    plain: [[RequirementId; 3]; 2],
    /// A package is registered for it, so that tasks which name none can run.
    registered: bool,
}

impl Partition {
    pub(crate) fn adopt_type(&mut self, tenant: TenantId, id: TypeId, name: Name) {
        let plain = [Some(id), None].map(|bare| {
            [0, 1, 2].map(|class| {
                let (kind, requires, resources) = (name.clone(), Vec::new(), Resources::default());
                let (length, executor) = (Length::Medium, None);
                self.requirement(Requirement { kind, bare, requires, resources, class, length, executor })
            })
        });
        let registered = self.records.contains_key(&(RecordKind::TaskType, tenant, name.clone()));
        self.types.insert(id, TypeWork { name: name.clone(), plain, registered });
        self.type_ids.entry(tenant).or_default().insert(name, id);
    }

    fn requirement(&mut self, requirement: Requirement) -> RequirementId {
        if let Some(id) = self.requirement_ids.get(&requirement) {
            return *id;
        }
        let id = RequirementId(u32::try_from(self.requirements.len()).expect("fewer requirements than tasks"));
        self.requirements.push(requirement.clone());
        self.requirement_ids.insert(requirement, id);
        id
    }

    /// What a task needs of a worker.
    pub(crate) fn requirement_of(&mut self, kind: TypeId, priority: u8, spec: &Spec) -> RequirementId {
        match self.plain_requirement(kind, priority, spec) {
            Some(id) => id,
            None => {
                let needed = needs(&self.types[&kind].name, kind, priority, spec);
                self.requirement(needed)
            }
        }
    }

    /// As [`Partition::requirement_of`], for what is known already.
    pub(crate) fn known_requirement(&self, task: &Task) -> Option<RequirementId> {
        let plain = self.plain_requirement(task.kind, task.priority, &task.spec);
        plain.or_else(|| self.requirement_ids.get(&self.needs_of(task)?).copied())
    }

    /// What a task needs of a worker, spelled out.
    pub(crate) fn needs_of(&self, task: &Task) -> Option<Requirement> {
        Some(needs(&self.types.get(&task.kind)?.name, task.kind, task.priority, &task.spec))
    }

    fn plain_requirement(&self, kind: TypeId, priority: u8, spec: &Spec) -> Option<RequirementId> {
        let work = self.types.get(&kind).filter(|_| spec.is_undemanding())?;
        Some(work.plain[usize::from(spec.package.is_some())][usize::from(class_of(priority))])
    }

    /// Whether a package brings the code of such tasks.
    pub(crate) fn is_packaged(&self, needed: &Requirement) -> bool {
        self.options.planted.has(Bug::IgnoredCode)
            || needed.bare.is_none_or(|kind| self.types.get(&kind).is_some_and(|work| work.registered))
    }

    /// A package was registered for a type, or none is any more.
    pub(crate) fn register_type(&mut self, tenant: TenantId, name: &Name, registered: bool) {
        let Some(kind) = self.type_ids.get(&tenant).and_then(|t| t.get(name)).copied() else { return };
        let Some(work) = self.types.get_mut(&kind) else { return };
        if std::mem::replace(&mut work.registered, registered) || !registered {
            return;
        }
        // What waited for a worker with code of its own can go to any that runs packages.
        self.pools_changed(|needed| needed.bare == Some(kind));
    }
}

fn needs(name: &Name, kind: TypeId, priority: u8, spec: &Spec) -> Requirement {
    Requirement {
        kind: name.clone(),
        bare: spec.package.is_none().then_some(kind),
        requires: spec.requires.clone(),
        resources: spec.resources,
        class: class_of(priority),
        length: spec.length(),
        executor: spec.executor.clone(),
    }
}
