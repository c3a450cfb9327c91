//! A small shop as tables: customers, products, suppliers, orders and employees, all made up from one seed.
//!
//! Promises the same rows for the same seed on every machine, a supplier for every product, a customer and a product
//! for every order, and prices, salaries and stocks without ties, so that "the cheapest" has one answer. Never reads
//! anything: names and figures are composed here.

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// The seed of the shop that the demo and the base model in `models/sql-tiny` know.
pub const SHOP_SEED: u64 = 17;

const CITIES: &[(&str, &str)] = &[
    ("Berlin", "Germany"),
    ("Hamburg", "Germany"),
    ("Lisbon", "Portugal"),
    ("Porto", "Portugal"),
    ("Madrid", "Spain"),
    ("Seville", "Spain"),
    ("Lyon", "France"),
    ("Oslo", "Norway"),
    ("Bergen", "Norway"),
    ("Dublin", "Ireland"),
];
const FIRST: &[&str] = &[
    "Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Hugo", "Irene", "Jonas", "Karin", "Louis", "Maria",
    "Nils", "Olga", "Pedro",
];
const LAST: &[&str] = &["Keller", "Moreau", "Santos", "Vega", "Hansen", "Byrne", "Lindt", "Rossi", "Novak", "Weber"];
const CATEGORIES: &[(&str, &[&str])] = &[
    ("furniture", &["Desk", "Chair", "Shelf"]),
    ("lighting", &["Lamp", "Lantern"]),
    ("kitchen", &["Kettle", "Pan", "Mug"]),
    ("garden", &["Rake", "Planter"]),
    ("textiles", &["Blanket", "Curtain", "Rug"]),
    ("toys", &["Puzzle", "Kite"]),
];
const MATERIALS: &[&str] = &["Oak", "Linen", "Copper", "Willow", "Slate", "Amber", "Cedar", "Velvet"];
const SUPPLIERS: &[&str] =
    &["Nordwind", "Casaluz", "Brightwell", "Ferrum", "Tidewater", "Montclair", "Halden", "Sunfield"];
const ROLES: &[&str] = &["manager", "clerk", "driver", "buyer", "designer"];
/// Every status that an order can have.
pub const STATUSES: &[&str] = &["delivered", "shipped", "pending", "cancelled", "returned"];

/// One buyer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    /// First and last name; unique.
    pub name: String,
    /// Where they live.
    pub city: String,
    /// The city's country.
    pub country: String,
    /// The year they registered.
    pub since: i64,
}

/// One article on sale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// Material and kind; unique.
    pub name: String,
    /// The kind's group.
    pub category: String,
    /// In whole euros; unique.
    pub price: i64,
    /// Pieces at hand; unique.
    pub stock: i64,
    /// Index of the supplier.
    pub supplier: usize,
}

/// One supplier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supplier {
    /// Its name; unique.
    pub name: String,
    /// Its country.
    pub country: String,
}

/// One order of one product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Index of the customer.
    pub customer: usize,
    /// Index of the product.
    pub product: usize,
    /// Pieces.
    pub quantity: i64,
    /// The year it was placed.
    pub year: i64,
    /// One of [`STATUSES`].
    pub status: String,
}

/// One member of the staff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Employee {
    /// First and last name; unique, and no customer's.
    pub name: String,
    /// What they do.
    pub role: String,
    /// Where they work.
    pub city: String,
    /// Euros a month; unique.
    pub salary: i64,
    /// The year they began.
    pub hired: i64,
}

/// The whole shop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shop {
    /// All customers.
    pub customers: Vec<Customer>,
    /// All products.
    pub products: Vec<Product>,
    /// All suppliers.
    pub suppliers: Vec<Supplier>,
    /// All orders.
    pub orders: Vec<Order>,
    /// The staff.
    pub employees: Vec<Employee>,
}

/// Why the shop could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be made.
    #[error("cannot write the shop's table to {path}")]
    Write {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The Parquet writer refused a table.
    #[error("cannot encode the shop's table for {path}")]
    Encode {
        /// The file.
        path: String,
        /// The cause.
        source: parquet::errors::ParquetError,
    },
}

fn pick<'a, T>(rng: &mut ChaCha8Rng, from: &'a [T]) -> &'a T {
    &from[rng.random_range(0..from.len())]
}

/// A number that was not drawn before: what keeps superlatives without ties.
fn fresh(rng: &mut ChaCha8Rng, range: std::ops::Range<i64>, step: i64, taken: &mut BTreeSet<i64>) -> i64 {
    loop {
        let number = rng.random_range(range.clone()) * step;
        if taken.insert(number) {
            return number;
        }
    }
}

impl Shop {
    /// Makes up a shop: 48 customers, 36 products, 8 suppliers, 360 orders, 24 employees.
    #[must_use]
    pub fn generate(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut names: Vec<String> = FIRST.iter().flat_map(|f| LAST.iter().map(move |l| format!("{f} {l}"))).collect();
        names.shuffle(&mut rng);
        let staff = names.split_off(48);
        let customers = names.into_iter().map(|name| customer(&mut rng, name)).collect::<Vec<_>>();
        let suppliers = SUPPLIERS
            .iter()
            .map(|name| Supplier { name: (*name).to_owned(), country: pick(&mut rng, CITIES).1.to_owned() });
        let suppliers: Vec<_> = suppliers.collect();
        let products = products(&mut rng, suppliers.len());
        let orders = (0..360).map(|i| order(&mut rng, i, customers.len(), products.len())).collect();
        let mut salaries = BTreeSet::new();
        let employees = staff.into_iter().take(24).enumerate();
        let employees = employees.map(|(i, name)| employee(&mut rng, i, name, &mut salaries)).collect();
        Self { customers, products, suppliers, orders, employees }
    }

    /// Every table by name.
    #[must_use]
    pub fn tables(&self) -> Vec<(&'static str, RecordBatch)> {
        vec![
            ("customers", customers_batch(&self.customers)),
            ("employees", employees_batch(&self.employees)),
            ("orders", orders_batch(&self.orders)),
            ("products", products_batch(&self.products)),
            ("suppliers", suppliers_batch(&self.suppliers)),
        ]
    }

    /// Writes each table as `DIR/<table>.parquet`, making the folder where it is missing.
    ///
    /// # Errors
    /// [`Error`] with the file that could not be written.
    pub fn write_parquet(&self, dir: &Path) -> Result<(), Error> {
        let io = |path: &Path, source| Error::Write { path: path.display().to_string(), source };
        std::fs::create_dir_all(dir).map_err(|e| io(dir, e))?;
        for (name, batch) in self.tables() {
            let path = dir.join(format!("{name}.parquet"));
            let file = File::create(&path).map_err(|e| io(&path, e))?;
            let encode = |source| Error::Encode { path: path.display().to_string(), source };
            let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).map_err(encode)?;
            writer.write(&batch).map_err(encode)?;
            writer.close().map_err(encode)?;
        }
        Ok(())
    }
}

fn customer(rng: &mut ChaCha8Rng, name: String) -> Customer {
    let (city, country) = *pick(rng, CITIES);
    Customer { name, city: city.to_owned(), country: country.to_owned(), since: rng.random_range(2015..2025) }
}

fn products(rng: &mut ChaCha8Rng, suppliers: usize) -> Vec<Product> {
    let kinds = CATEGORIES.iter().flat_map(|(category, kinds)| kinds.iter().map(move |kind| (*category, *kind)));
    let mut all: Vec<(String, String)> = kinds
        .flat_map(|(category, kind)| MATERIALS.iter().map(move |m| (format!("{m} {kind}"), category.to_owned())))
        .collect();
    all.shuffle(rng);
    let (mut prices, mut stocks) = (BTreeSet::new(), BTreeSet::new());
    let make = |(i, (name, category)): (usize, (String, String))| Product {
        name,
        category,
        price: fresh(rng, 2..80, 5, &mut prices),
        stock: fresh(rng, 3..300, 1, &mut stocks),
        // Every supplier has a product.
        supplier: if i < suppliers { i } else { rng.random_range(0..suppliers) },
    };
    all.into_iter().take(36).enumerate().map(make).collect()
}

fn order(rng: &mut ChaCha8Rng, i: usize, customers: usize, products: usize) -> Order {
    Order {
        // Every customer and every product has an order.
        customer: if i < customers { i } else { rng.random_range(0..customers) },
        product: if i < products { i } else { rng.random_range(0..products) },
        quantity: rng.random_range(1..10),
        year: rng.random_range(2020..2026),
        status: (*pick(rng, STATUSES)).to_owned(),
    }
}

fn employee(rng: &mut ChaCha8Rng, i: usize, name: String, salaries: &mut BTreeSet<i64>) -> Employee {
    Employee {
        name,
        role: (*if i < ROLES.len() { &ROLES[i] } else { pick(rng, ROLES) }).to_owned(),
        city: pick(rng, &CITIES[..5]).0.to_owned(),
        salary: fresh(rng, 40..120, 50, salaries),
        hired: rng.random_range(2012..2025),
    }
}

fn text<'a>(values: impl Iterator<Item = &'a String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn whole(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

/// Identifiers: 1, 2, 3 …
fn ids(count: usize) -> ArrayRef {
    whole((1..).take(count))
}

/// Indices as the identifiers of [`ids`].
fn references(values: impl Iterator<Item = usize>) -> ArrayRef {
    whole(values.map(|v| i64::try_from(v).expect("a shop's tables are small") + 1))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).expect("all columns are built from one list")
}

fn customers_batch(rows: &[Customer]) -> RecordBatch {
    batch(vec![
        ("customer_id", ids(rows.len())),
        ("name", text(rows.iter().map(|r| &r.name))),
        ("city", text(rows.iter().map(|r| &r.city))),
        ("country", text(rows.iter().map(|r| &r.country))),
        ("since", whole(rows.iter().map(|r| r.since))),
    ])
}

fn employees_batch(rows: &[Employee]) -> RecordBatch {
    batch(vec![
        ("employee_id", ids(rows.len())),
        ("name", text(rows.iter().map(|r| &r.name))),
        ("role", text(rows.iter().map(|r| &r.role))),
        ("city", text(rows.iter().map(|r| &r.city))),
        ("salary", whole(rows.iter().map(|r| r.salary))),
        ("hired", whole(rows.iter().map(|r| r.hired))),
    ])
}

fn orders_batch(rows: &[Order]) -> RecordBatch {
    batch(vec![
        ("order_id", ids(rows.len())),
        ("customer_id", references(rows.iter().map(|r| r.customer))),
        ("product_id", references(rows.iter().map(|r| r.product))),
        ("quantity", whole(rows.iter().map(|r| r.quantity))),
        ("year", whole(rows.iter().map(|r| r.year))),
        ("status", text(rows.iter().map(|r| &r.status))),
    ])
}

#[expect(clippy::cast_precision_loss, reason = "prices are below a thousand")]
fn products_batch(rows: &[Product]) -> RecordBatch {
    batch(vec![
        ("product_id", ids(rows.len())),
        ("name", text(rows.iter().map(|r| &r.name))),
        ("category", text(rows.iter().map(|r| &r.category))),
        ("price", Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| r.price as f64)))),
        ("stock", whole(rows.iter().map(|r| r.stock))),
        ("supplier_id", references(rows.iter().map(|r| r.supplier))),
    ])
}

fn suppliers_batch(rows: &[Supplier]) -> RecordBatch {
    batch(vec![
        ("supplier_id", ids(rows.len())),
        ("name", text(rows.iter().map(|r| &r.name))),
        ("country", text(rows.iter().map(|r| &r.country))),
    ])
}
