//! A profile that cannot be used.

/// Why the profile cannot be used, and what to do.
#[derive(Debug)]
pub(super) struct ProfileRefusal {
    pub(super) why: String,
    pub(super) remedy: &'static str,
}
