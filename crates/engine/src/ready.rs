//! ready
/// tmp
pub fn lane_key() {}
/// tmp
pub fn gcra() {}
