//! The workflow language: text to diagnostics and a plan that the engine walks; jq and JSON Schema under fuel.
