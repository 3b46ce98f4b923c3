//! The switch of the simulation's mutants: wrong code that proves that the simulation would find it.
//!
//! `tests/sim` lists all mutants. Where no store, engine or process of the simulation can carry one, its body is in the
//! `mutants.rs` of the crate that it breaks, behind the crate feature `mutants`, which only the simulation turns on. `MUTANT_HOOKS`
//! has the name of each, and `tests/sim` checks these lists against its own. Without the feature neither the
//! bodies nor the switch are compiled: [`mutant_hooks`](crate::mutant_hooks) leaves only what each hook returns while its mutant is off.

/// Defines hooks: what each returns while a mutant is on, compiled with the feature `mutants` of the crate that calls this alone, and after
/// `_` what it returns else.
#[macro_export]
macro_rules! mutant_hooks {
    ($(
        $(#[$doc:meta])*
        $seen:vis fn $hook:ident $(<$generic:ident>)? ($($argument:ident: $kind:ty),* $(,)?) -> $answer:ty {
            $($mutant:ident => $wrong:expr,)+
            _ => $right:expr $(,)?
        }
    )+) => {
        /// The mutants whose body is in this crate, once for each hook. `tests/sim` checks that each name is that of a mutant.
        #[cfg(feature = "mutants")]
        pub const MUTANT_HOOKS: &[&str] = &[$($(stringify!($mutant),)+)+];

        $($(#[$doc])*
        $seen fn $hook $(<$generic>)? ($($argument: $kind),*) -> $answer {
            #[cfg(feature = "mutants")]
            {
                $(if $crate::mutants::is_active(stringify!($mutant)) {
                    return $wrong;
                })+
            }
            // Some are for the mutants alone.
            #[cfg(not(feature = "mutants"))]
            let _ = ($(&$argument,)*);
            $right
        }
    )+};
}

mutant_hooks! {
    /// `EmptiedChainBegunAnew`: a chain without its first record is empty, whatever a listing shows.
    pub(crate) fn is_empty_chain(nothing_listed: bool) -> bool {
        EmptiedChainBegunAnew => true,
        _ => nothing_listed,
    }
}

#[cfg(feature = "mutants")]
mod switch {
    use std::cell::Cell;

    thread_local! {
        static ACTIVE: Cell<Option<&'static str>> = const { Cell::new(None) };
        static RUN: Cell<u64> = const { Cell::new(0) };
    }

    /// Turns the mutant `name` on for this thread, in place of the one before.
    pub fn activate(name: Option<&'static str>) {
        ACTIVE.set(name);
        RUN.set(RUN.get() + 1);
    }

    /// Counts the activations on this thread: what a mutant remembers belongs to one of them.
    pub fn activation() -> u64 {
        RUN.get()
    }

    /// Whether the mutant `name` is on for this thread.
    pub fn is_active(name: &str) -> bool {
        ACTIVE.get() == Some(name)
    }
}

#[cfg(feature = "mutants")]
pub use switch::{activate, activation, is_active};
