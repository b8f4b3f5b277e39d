//! Every document of the standard's repository.

use tidewheel_engine::run::eval::Compiler;
use tidewheel_engine::run::plan::Profile;
use tidewheel_lang::compile::{Language, is_refusal};
use tidewheel_lang::diagnostic::{Diagnostic, has_errors};
use tidewheel_lang::feature::Features;
use tidewheel_lang::resolve::{Options, deploy};

use crate::suite::{Peers, files, folder};

/// The documents of both editions: name, text, edition that has to accept it.
pub(crate) fn documents() -> Vec<(String, String, Profile)> {
    let mut all = Vec::new();
    for (version, profile) in [("v1.0.3", Profile::V1_0_3), ("main", Profile::Next)] {
        for part in ["examples", "reference-blocks"] {
            let Some(folder) = folder(&format!("ows/{version}/{part}")) else { return Vec::new() };
            for (name, text) in files(&folder, "yaml") {
                all.push((format!("{version}/{part}/{name}"), text, profile));
            }
        }
    }
    all
}

fn shown(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(|one| format!("  {} {one}\n", one.code)).collect()
}

#[test]
fn every_document_of_the_standard_becomes_a_plan_that_compiles_again_from_what_was_stored() {
    let mut wrong = String::new();
    for (name, text, profile) in documents() {
        let options = Options { profile: Some(profile), features: Features::all() };
        let deployed = deploy(text.as_bytes(), options, &Peers);
        let Some((resolved, compiled)) = deployed.workflow else {
            let refused = deployed.diagnostics.iter().filter(|one| one.code != "not-supported");
            if deployed.diagnostics.iter().any(is_refusal)
                && !refused.clone().any(|one| has_errors(std::slice::from_ref(one)))
            {
                continue;
            }
            wrong += &format!("{name}:\n{}", shown(&deployed.diagnostics));
            continue;
        };
        use tidewheel_engine::run::eval::Definition;
        let again = Language.compile(&resolved.bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(again.plan(), compiled.plan(), "{name}");
        for node in &compiled.plan().nodes {
            assert_eq!(compiled.plan().find(&node.reference).map(|id| compiled.plan().node(id)), Some(node), "{name}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn invalid_documents_are_rejected_with_a_place() {
    for version in ["v1.0.3", "main"] {
        let Some(folder) = folder(&format!("ows/{version}/invalid")) else { return };
        for (name, text) in files(&folder, "yaml") {
            let options = Options { profile: None, features: Features::all() };
            let deployed = deploy(text.as_bytes(), options, &Peers);
            assert!(deployed.workflow.is_none(), "{name}");
            assert!(deployed.diagnostics.iter().all(|one| one.span.start.line > 0), "{name}");
        }
    }
}
