//! How each table's columns are laid out in Parquet: compression, dictionaries, statistics, pages.
//!
//! What was chosen was measured with `cargo bench --bench ingest` (`docs/BENCH-INGEST.md` has the figures). Compression is
//! nearly all of what ingestion costs, so zstd's level 1 and not 3: 15 % more bytes for half the time. Level and layout are
//! those of fresh files; nothing that reads depends on them.

use super::column::Kind;
use super::table::TableName;
use deltalake::parquet::basic::{Compression, Encoding, ZstdLevel};
use deltalake::parquet::file::properties::{EnabledStatistics, WriterProperties};
use deltalake::parquet::schema::types::ColumnPath;

const ZSTD_LEVEL: i32 = 1;
/// Buffers of this size come from the allocator's free lists; at the usual megabyte each page is memory that the kernel has
/// to clear first, which cost a quarter of the encoder's time.
const PAGE_BYTES: usize = 256 * 1024;
/// A page's size is looked at after so many rows; with the usual 1,024 a page of bodies would be several megabytes.
const ROWS_BETWEEN_LOOKS: usize = 32;
/// Texts that hardly ever repeat: a dictionary of them is built in vain and thrown away.
const UNIQUE: &[&str] =
    &["request_id", "client_request_id", "request", "response", "messages", "prompt", "prompt_hash", "completion"];

impl TableName {
    /// The settings that the table's files are written with.
    #[must_use]
    pub fn writer_properties(self) -> WriterProperties {
        let level = ZstdLevel::try_new(ZSTD_LEVEL).expect("it is a level of zstd");
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_data_page_size_limit(PAGE_BYTES)
            .set_write_batch_size(ROWS_BETWEEN_LOOKS)
            .set_created_by(concat!("pelton ", env!("CARGO_PKG_VERSION")).to_owned());
        for column in self.columns() {
            let path = ColumnPath::from(column.name);
            // Nobody skips by the smallest and largest of raw JSON or of free text.
            if !self.statistics_columns().contains(&column.name) {
                properties = properties.set_column_statistics_enabled(path.clone(), EnabledStatistics::None);
            }
            properties = match column.kind {
                Kind::Text if UNIQUE.contains(&column.name) => properties.set_column_dictionary_enabled(path, false),
                // Offsets and times grow by little from row to row: a few bits each.
                Kind::Time | Kind::Long => properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED),
                _ => properties,
            };
        }
        properties.build()
    }
}
