//! Reads one model-written SQL text: is it a single read-only query, and what does it name?
//!
//! Promises that a text that passes is one `SELECT` or `WITH … SELECT` over named tables: no DDL, DML, `COPY`, `SET`,
//! `EXPLAIN`, no table function, no `SELECT INTO`, no lock, at any depth. Never runs anything.

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, LimitClause, ObjectName, OrderByKind, Query, Select, SelectItem, SetExpr, Statement as Ast,
    TableFactor, Value, ValueWithSpan, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// Why a text will not be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The text is too long to be worth parsing.
    #[error("the SQL has {bytes} bytes, and at most {bytes_max} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The text is not SQL.
    #[error("the SQL does not parse: {0}")]
    Syntax(String),
    /// The text is not one statement.
    #[error("{0} statements were given, and exactly one query is run")]
    Statements(usize),
    /// The statement, or a part of it, could change or reach something.
    #[error("{0} is refused: only a SELECT over the database's tables is run")]
    NotReadOnly(&'static str),
}

/// An operation that words of a question can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// `COUNT`.
    Count,
    /// `SUM`.
    Sum,
    /// `AVG`.
    Average,
    /// `MAX`, or an order from the top.
    Highest,
    /// `MIN`, or an order from the bottom.
    Lowest,
    /// `GROUP BY`.
    Group,
    /// `>` or `>=`.
    Above,
    /// `<` or `<=`.
    Below,
    /// `DISTINCT`.
    Distinct,
}

/// A literal of the SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Literal {
    /// Digits as written.
    Number(String),
    /// A string's content.
    Text(String),
}

/// What a query names and does.
#[derive(Debug, Clone, Default)]
pub struct Statement {
    /// Tables and columns, lower case.
    pub names: BTreeSet<String>,
    /// Whether it reads any table at all.
    pub reads_table: bool,
    /// Its literals, `LIMIT 1` left out: "the cheapest" is one row without saying so.
    pub literals: Vec<Literal>,
    /// Its operations.
    pub operations: BTreeSet<Operation>,
    /// Columns that the outermost `SELECT` gives; absent for `*`.
    pub outputs: Option<usize>,
    /// Whether the outermost query orders its rows.
    pub ordered: bool,
}

/// Parses, refuses or describes.
///
/// # Errors
/// [`Refusal`] with what is wrong.
pub fn read(sql: &str, bytes_max: usize) -> Result<Statement, Refusal> {
    if sql.len() > bytes_max {
        return Err(Refusal::TooLong { bytes: sql.len(), bytes_max });
    }
    let statements = Parser::parse_sql(&GenericDialect {}, sql).map_err(|e| Refusal::Syntax(e.to_string()))?;
    let [Ast::Query(query)] = statements.as_slice() else {
        return Err(if statements.len() == 1 {
            Refusal::NotReadOnly("a statement that is no query")
        } else {
            Refusal::Statements(statements.len())
        });
    };
    let mut reader = Reader { statement: outermost(query), ..Reader::default() };
    match query.visit(&mut reader) {
        ControlFlow::Break(what) => Err(Refusal::NotReadOnly(what)),
        ControlFlow::Continue(()) => Ok(reader.finish()),
    }
}

fn outermost(query: &Query) -> Statement {
    let mut body = query.body.as_ref();
    while let SetExpr::Query(inner) = body {
        body = inner.body.as_ref();
    }
    let outputs = match body {
        SetExpr::Select(select) => {
            let star = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
            (!select.projection.iter().any(star)).then_some(select.projection.len())
        }
        _ => None,
    };
    Statement { outputs, ordered: query.order_by.is_some(), ..Statement::default() }
}

#[derive(Default)]
struct Reader {
    statement: Statement,
    /// How often `LIMIT 1` was met: so many literals `1` are not the question's.
    single_row_limits: usize,
}

impl Reader {
    fn finish(mut self) -> Statement {
        for _ in 0..self.single_row_limits {
            let one = self.statement.literals.iter().position(|l| *l == Literal::Number("1".to_owned()));
            one.map(|at| self.statement.literals.remove(at));
        }
        self.statement
    }

    fn does(&mut self, operation: Operation) {
        self.statement.operations.insert(operation);
    }

    fn order(&mut self, query: &Query) {
        let limited = query.limit_clause.is_some() || query.fetch.is_some();
        let Some(OrderByKind::Expressions(keys)) = query.order_by.as_ref().map(|o| &o.kind) else { return };
        // Without a limit an order only sorts; with one it picks an end.
        if let (true, Some(first)) = (limited, keys.first()) {
            self.does(if first.options.asc == Some(false) { Operation::Highest } else { Operation::Lowest });
        }
    }
}

/// `Break` carries what is refused.
impl Visitor for Reader {
    type Break = &'static str;

    fn pre_visit_statement(&mut self, _: &Ast) -> ControlFlow<Self::Break> {
        ControlFlow::Break("a statement inside a query")
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        if !query.locks.is_empty() || query.for_clause.is_some() || query.settings.is_some() {
            return ControlFlow::Break("a lock or setting");
        }
        if query.with.as_ref().is_some_and(|with| with.recursive) {
            return ControlFlow::Break("a recursive query");
        }
        self.order(query);
        if let Some(LimitClause::LimitOffset { limit: Some(Expr::Value(value)), .. }) = &query.limit_clause
            && matches!(&value.value, Value::Number(digits, _) if digits == "1")
        {
            self.single_row_limits += 1;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        if select.into.is_some() {
            return ControlFlow::Break("SELECT INTO");
        }
        if select.distinct.is_some() {
            self.does(Operation::Distinct);
        }
        match &select.group_by {
            GroupByExpr::Expressions(keys, _) if keys.is_empty() => {}
            _ => self.does(Operation::Group),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        match factor {
            TableFactor::Table { args: None, version: None, .. } => {
                self.statement.reads_table = true;
                ControlFlow::Continue(())
            }
            TableFactor::Derived { .. } | TableFactor::NestedJoin { .. } => ControlFlow::Continue(()),
            _ => ControlFlow::Break("a table function"),
        }
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<Self::Break> {
        let parts = relation.0.iter().filter_map(|part| part.as_ident());
        self.statement.names.extend(parts.map(|ident| ident.value.to_lowercase()));
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        use datafusion::sql::sqlparser::ast::{BinaryOperator as B, FunctionArguments};
        match expr {
            Expr::Identifier(ident) => {
                self.statement.names.insert(ident.value.to_lowercase());
            }
            Expr::CompoundIdentifier(idents) => {
                self.statement.names.extend(idents.iter().map(|i| i.value.to_lowercase()));
            }
            Expr::BinaryOp { op: B::Gt | B::GtEq, .. } => self.does(Operation::Above),
            Expr::BinaryOp { op: B::Lt | B::LtEq, .. } => self.does(Operation::Below),
            Expr::Between { .. } => {
                self.does(Operation::Above);
                self.does(Operation::Below);
            }
            Expr::Function(function) => {
                match function.name.to_string().to_lowercase().as_str() {
                    "count" => self.does(Operation::Count),
                    "sum" => self.does(Operation::Sum),
                    "avg" | "mean" => self.does(Operation::Average),
                    "max" => self.does(Operation::Highest),
                    "min" => self.does(Operation::Lowest),
                    _ => {}
                }
                if let FunctionArguments::List(list) = &function.args
                    && list.duplicate_treatment.is_some()
                {
                    self.does(Operation::Distinct);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<Self::Break> {
        match &value.value {
            Value::Number(digits, _) => self.statement.literals.push(Literal::Number(digits.clone())),
            Value::Boolean(_) | Value::Null => {}
            other => {
                if let Some(text) = other.clone().into_string() {
                    self.statement.literals.push(Literal::Text(text));
                }
            }
        }
        ControlFlow::Continue(())
    }
}
