//! How each table's columns are laid out in Parquet: compression, dictionaries, statistics.

use super::table::TableName;
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::file::properties::WriterProperties;

impl TableName {
    /// The settings that the table's files are written with.
    #[must_use]
    pub fn writer_properties(self) -> WriterProperties {
        let level = ZstdLevel::try_new(3).expect("3 is a level of zstd");
        WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_created_by(concat!("pelton ", env!("CARGO_PKG_VERSION")).to_owned())
            .build()
    }
}
