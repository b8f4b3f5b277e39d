//! partition
/// tmp
#[derive(Debug)] pub struct Partition;
