//! QuickSync: through oneVPL, or through VA-API alone.

pub mod copy;
pub mod display;
pub mod surfaces;
pub mod vaapi;
pub mod vpl;
