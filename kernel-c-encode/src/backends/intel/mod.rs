//! QuickSync: through oneVPL, or through VA-API alone.

pub mod surfaces;
pub mod vaapi;
pub mod vpl;
