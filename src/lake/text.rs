//! The long texts of rows: Arrow columns in memory that is used again from batch to batch.
//!
//! Nearly all bytes of a log are in a few columns of text. Memory that is asked for and given back for every batch has to
//! be cleared by the kernel page by page each time, and what was freed a moment ago still counts as resident. So a batch
//! that was encoded gives its memory back here, and the next one is collected in it. What is kept free is bounded.

use arrow::array::builder::NullBufferBuilder;
use arrow::array::{ArrayRef, AsArray as _, RecordBatch, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Memory is not used again for batches that are likely to need less than this part of it.
const WASTE_MAX: usize = 4;

/// Memory of batches that are done, for those that come, one pool for each text column of a table; a cheap handle.
#[derive(Debug, Clone)]
pub struct TextMemory {
    columns: Arc<[Mutex<Free>]>,
    /// What all columns keep, in bytes.
    free_bytes: Arc<AtomicUsize>,
    /// The most that a column keeps, in bytes.
    free_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Free {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    /// What the last batch needed.
    usual_bytes: usize,
    usual_rows: usize,
}

impl TextMemory {
    /// Memory of so many columns, of which at most `free_bytes_max` bytes are kept for later.
    pub(super) fn new(columns: usize, free_bytes_max: usize) -> Self {
        let columns: Vec<_> = (0..columns).map(|_| Mutex::default()).collect();
        Self {
            free_bytes_max: free_bytes_max / columns.len().max(1),
            free_bytes: Arc::default(),
            columns: columns.into(),
        }
    }

    /// What is kept for later, in bytes.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.free_bytes.load(Relaxed)
    }

    /// Memory for a column's next batch, as large as the last one needed.
    pub(super) fn take(&self, column: usize) -> TextColumn {
        let mut free = self.columns[column].lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = free.usual_bytes + free.usual_bytes / 8;
        let fits = |b: &Vec<u8>| b.capacity() >= wanted && b.capacity() / WASTE_MAX <= wanted;
        let found = free.buffers.iter().position(fits).map(|at| free.buffers.swap_remove(at));
        let taken = found.as_ref().map_or(0, Vec::capacity);
        free.bytes -= taken;
        self.free_bytes.fetch_sub(taken, Relaxed);
        let bytes = found.unwrap_or_else(|| Vec::with_capacity(wanted));
        TextColumn::with_memory(bytes, free.usual_rows + free.usual_rows / 8)
    }

    /// Takes note of what a batch needed.
    pub(super) fn tell(&self, column: usize, rows: usize, bytes: usize) {
        let mut free = self.columns[column].lock().unwrap_or_else(PoisonError::into_inner);
        (free.usual_rows, free.usual_bytes) = (rows, bytes);
    }

    /// Takes a column's memory back where nobody else reads the column any more.
    fn give_back(&self, column: usize, texts: StringArray) {
        let (_, values, _) = texts.into_parts();
        let Ok(mut buffer) = values.into_vec::<u8>() else { return };
        buffer.clear();
        let mut free = self.columns[column].lock().unwrap_or_else(PoisonError::into_inner);
        if free.bytes + buffer.capacity() <= self.free_bytes_max {
            free.bytes += buffer.capacity();
            self.free_bytes.fetch_add(buffer.capacity(), Relaxed);
            free.buffers.push(buffer);
        }
    }

    /// Takes back the memory of a batch that is done; `columns` are the names of the text columns, in their order here.
    pub(super) fn reuse(&self, batch: RecordBatch, columns: &[&str]) {
        let texts: Vec<Option<StringArray>> =
            columns.iter().map(|name| batch.column_by_name(name)?.as_string_opt::<i32>().cloned()).collect();
        drop(batch);
        for (column, texts) in texts.into_iter().enumerate() {
            if let Some(texts) = texts {
                self.give_back(column, texts);
            }
        }
    }
}

/// A column of texts that is being collected.
#[derive(Debug)]
pub(super) struct TextColumn {
    bytes: Vec<u8>,
    /// Where each text begins, and where the last one ends.
    offsets: Vec<i32>,
    valid: NullBufferBuilder,
}

impl TextColumn {
    pub(super) fn new() -> Self {
        Self::with_memory(Vec::new(), 0)
    }

    fn with_memory(bytes: Vec<u8>, rows: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self { bytes, offsets, valid: NullBufferBuilder::new(rows) }
    }

    /// Rows.
    pub(super) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Bytes of text.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn append_option(&mut self, text: Option<&str>) {
        self.bytes.extend_from_slice(text.unwrap_or_default().as_bytes());
        self.offsets.push(i32::try_from(self.bytes.len()).expect("a batch is cut long before 2 GiB of text"));
        self.valid.append(text.is_some());
    }

    /// The column as it is; collecting begins anew, without memory.
    pub(super) fn finish(&mut self) -> ArrayRef {
        let Self { bytes, offsets, mut valid } = mem::replace(self, Self::new());
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Arc::new(StringArray::new(offsets, Buffer::from_vec(bytes), valid.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field, Schema};

    fn batch(column: &mut TextColumn) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("text", DataType::Utf8, true)]);
        RecordBatch::try_new(Arc::new(schema), vec![column.finish()]).unwrap()
    }

    fn filled(memory: &TextMemory, text: &str, rows: usize) -> RecordBatch {
        let mut column = memory.take(0);
        (0..rows).for_each(|_| column.append_option(Some(text)));
        memory.tell(0, column.len(), column.bytes());
        batch(&mut column)
    }

    fn address(batch: &RecordBatch) -> *const u8 {
        batch.column(0).as_string::<i32>().values().as_ptr()
    }

    #[test]
    fn texts_and_nulls_come_out_as_they_went_in() {
        let mut column = TextColumn::new();
        let texts = [Some("größe"), None, Some(""), Some("a")];
        texts.iter().for_each(|text| column.append_option(*text));
        assert_eq!(column.finish().as_string::<i32>().iter().collect::<Vec<_>>(), texts);
        assert_eq!(column.len(), 0);
        assert_eq!(column.finish().len(), 0);
    }

    #[test]
    fn memory_of_a_batch_that_is_done_is_used_again_and_what_is_still_read_is_not() {
        let memory = TextMemory::new(1, 1 << 20);
        let first = filled(&memory, "abcdefgh", 100);
        memory.reuse(filled(&memory, "abcdefgh", 100), &["text"]);
        let second = filled(&memory, "ijklmnop", 90);
        let (held, at) = (second.clone(), address(&second));
        memory.reuse(second, &["text"]);
        assert_ne!(address(&filled(&memory, "qrstuvwx", 90)), at, "it is still read");
        assert_eq!(held.column(0).as_string::<i32>().value(89), "ijklmnop");
        let at = address(&first);
        memory.reuse(first, &["text"]);
        drop(held);
        let third = filled(&memory, "x", 3);
        assert_eq!(third.column(0).as_string::<i32>().iter().flatten().collect::<String>(), "xxx");
        // The memory that came last fits what the last batch but one needed.
        assert_eq!(address(&third), at);
    }

    #[test]
    fn no_more_is_kept_than_was_allowed_and_no_large_memory_for_small_batches() {
        let memory = TextMemory::new(1, 1000);
        memory.reuse(filled(&memory, "0123456789", 200), &["text"]);
        assert_eq!(memory.columns[0].lock().unwrap().bytes, 0, "2,000 bytes are above the bound");
        memory.reuse(filled(&memory, "0123456789", 10), &["text"]);
        memory.tell(0, 90, 900);
        let large = filled(&memory, "0123456789", 80);
        memory.reuse(large, &["text"]);
        assert!(memory.columns[0].lock().unwrap().bytes <= 1000);
        memory.tell(0, 1, 1);
        assert!(memory.take(0).bytes.capacity() < 100);
    }
}
