//! The engine through its public interface: given a state, when commands come, then these mutations and effects.

mod bench;
mod items;
mod keys;
mod limits;
mod moves;
mod order;
mod overload;
mod placement;
mod run;
mod runs;
mod time;
mod types;
mod window;
mod workers;
