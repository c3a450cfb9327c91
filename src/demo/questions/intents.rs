//! What people ask of the shop: each kind of question with its SQL and the ways to put it.
//!
//! Text only: [`spin`](mod@super::spin) expands the phrases, and a test runs every SQL.

/// One kind of question.
#[derive(Debug)]
pub(super) struct Intent {
    /// 1: one table and a filter; 2: aggregates, groups, superlatives; 3: joins and subqueries.
    pub level: u8,
    /// The SQL in DataFusion's dialect, with `$slot`s.
    pub sql: &'static str,
    /// Ways to ask, as `spin` reads them.
    pub phrases: &'static [&'static str],
}

const fn intent(level: u8, sql: &'static str, phrases: &'static [&'static str]) -> Intent {
    Intent { level, sql, phrases }
}

/// Every kind of question, simple ones first.
pub(super) const INTENTS: &[Intent] = &[
    // One table, one filter.
    intent(
        1,
        "SELECT COUNT(*) FROM customers WHERE city = '$city'",
        &[
            "@many @customers @live $city?",
            "@count @customers in $city",
            "{In $city, how many|How many} @customers do we have{| there}[ in $city]?",
        ],
    ),
    intent(
        1,
        "SELECT COUNT(*) FROM customers WHERE country = '$country'",
        &[
            "@many @customers @live $country?",
            "@count @customers in $country",
            "What is our number of @customers from $country?",
        ],
    ),
    intent(
        1,
        "SELECT name FROM customers WHERE city = '$city'",
        &[
            "@list [the names of ]{all |the }@customers {in|from} $city",
            "@which @customers @live $city?",
            "{Who are|What are the names of} {the|our} @customers in $city?",
        ],
    ),
    intent(
        1,
        "SELECT name FROM customers WHERE since > $since",
        &[
            "@which @customers {registered|joined|signed up} @after $since?",
            "@list {all |the }@customers who {registered|joined|signed up} @after $since",
            "{Who|Which @customers} {is|are} new since $since?",
        ],
    ),
    intent(
        1,
        "SELECT city FROM customers WHERE name = '$customer'",
        &[
            "{Where does|In which city does} [@customer ]$customer live?",
            "@what the city of [@customer ]$customer",
            "{What city|Which city} is [@customer ]$customer from?",
        ],
    ),
    intent(
        1,
        "SELECT price FROM products WHERE name = '$product'",
        &[
            "{How much is|What does} the $product{| cost}?",
            "@what the price of the $product",
            "What do we {charge|ask|take} for {a|the} $product?",
        ],
    ),
    intent(
        1,
        "SELECT stock FROM products WHERE name = '$product'",
        &[
            "{How many|How much} {of the |}$product {is|are} in stock?",
            "@what the stock of the $product",
            "{How many pieces of the|How many of the} $product {do we have|are left|remain}?",
        ],
    ),
    intent(
        1,
        "SELECT category FROM products WHERE name = '$product'",
        &[
            "{Which|What} category {is|does} the $product {in|belong to|fall into}?",
            "@what the category of the $product",
        ],
    ),
    intent(
        1,
        "SELECT name FROM products WHERE category = '$category'",
        &[
            "@list {all |the }@products in [the category ]$category",
            "@which $category @products do we {sell|have|carry|offer}?",
            "What {can I buy|is there|do we sell} in [the category ]$category?",
        ],
    ),
    intent(
        1,
        "SELECT name FROM products WHERE price < $under",
        &[
            "@which @products {cost|are} @under $under[ euros]?",
            "@list {all |the }@products {with a price|priced} @under $under",
            "What can I {buy|get} for @under $under[ euros]?",
        ],
    ),
    intent(
        1,
        "SELECT name FROM products WHERE price > $over",
        &[
            "@which @products {cost|are} @over $over[ euros]?",
            "@list {all |the }@products {with a price|priced} @over $over",
        ],
    ),
    intent(
        1,
        "SELECT name FROM products WHERE stock < $low",
        &[
            "@which @products have {a stock|fewer pieces} @under $low?",
            "@list {all |the }@products with {stock @under|fewer than} $low[ pieces][ in stock]",
            "What is {running low|nearly out}, @under $low[ in stock]?",
        ],
    ),
    intent(
        1,
        "SELECT COUNT(*) FROM orders WHERE status = '$status'",
        &["@many @orders {are|were} $status?", "@count $status @orders", "What is our number of $status @orders?"],
    ),
    intent(
        1,
        "SELECT COUNT(*) FROM orders WHERE year = $year",
        &[
            "@many @orders were @placed in $year?",
            "@count @orders {in|of|from} $year",
            "How busy was $year, in @orders?",
        ],
    ),
    intent(
        1,
        "SELECT COUNT(*) FROM orders WHERE status = '$status' AND year = $year",
        &[
            "@many @orders {of|from} $year {are|were} $status?",
            "@count $status @orders {in|of|from} $year",
            "In $year, how many @orders were $status?",
        ],
    ),
    intent(
        1,
        "SELECT name FROM employees WHERE role = '$role'",
        &[
            "@list {all |the }@employees who work as [a ]$role",
            "Who {works as|is employed as|is} [a ]$role?",
            "@which @employees {have the role|are in the role of} $role?",
        ],
    ),
    intent(
        1,
        "SELECT salary FROM employees WHERE name = '$employee'",
        &[
            "{How much does|What does} $employee {earn|make}?",
            "@what the salary of $employee",
            "What do we pay $employee?",
        ],
    ),
    intent(
        1,
        "SELECT role FROM employees WHERE name = '$employee'",
        &[
            "{What is the role of $employee|What role does $employee have}?",
            "{What does $employee do|What job does $employee have}[ here]?",
            "@what the role of $employee",
        ],
    ),
    intent(
        1,
        "SELECT name FROM employees WHERE hired > $hired",
        &[
            "@which @employees {were hired|began|started} @after $hired?",
            "@list {all |the }@employees hired @after $hired",
            "Who {has started|joined the staff} since $hired?",
        ],
    ),
    intent(
        1,
        "SELECT name FROM suppliers WHERE country = '$supplier_country'",
        &[
            "@which @suppliers {are|come} from $supplier_country?",
            "@list {all |the }@suppliers in $supplier_country",
            "Who supplies us from $supplier_country?",
        ],
    ),
    // Aggregates, groups, superlatives.
    intent(
        2,
        "SELECT AVG(price) FROM products WHERE category = '$category'",
        &[
            "@what the @average price {of|in} [the category ]$category",
            "{How much does|What does} a $category @product cost on average?",
            "@average price for $category @products?",
        ],
    ),
    intent(
        2,
        "SELECT AVG(salary) FROM employees WHERE role = '$role'",
        &[
            "@what the @average salary of a $role",
            "{How much does|What does} a $role {earn|make} on average?",
            "@average pay of @employees {in the role|working as} $role?",
        ],
    ),
    intent(
        2,
        "SELECT SUM(stock) FROM products WHERE category = '$category'",
        &[
            "@what the @total stock {of|in} [the category ]$category",
            "How many pieces {of|in} $category {do we have|are there} in @total?",
            "Add up the stock of [all ]$category @products",
        ],
    ),
    intent(
        2,
        "SELECT MAX(salary) FROM employees WHERE city = '$work_city'",
        &[
            "@what the @highest salary in $work_city",
            "{How much does|What does} the best paid @employee in $work_city {earn|make}?",
        ],
    ),
    intent(
        2,
        "SELECT MIN(price) FROM products WHERE category = '$category'",
        &[
            "@what the @lowest price in [the category ]$category",
            "{How much is|What does} the @cheap $category @product{| cost}?",
        ],
    ),
    intent(
        2,
        "SELECT name FROM products WHERE category = '$category' ORDER BY price DESC LIMIT 1",
        &[
            "@what the @expensive @product in [the category ]$category",
            "@which $category @product {has the @highest price|is the @expensive}?",
            "{Name|Find} the @expensive $category @product",
        ],
    ),
    intent(
        2,
        "SELECT name FROM products WHERE category = '$category' ORDER BY price LIMIT 1",
        &[
            "@what the @cheap @product in [the category ]$category",
            "@which $category @product {has the @lowest price|is the @cheap}?",
            "{Name|Find} the @cheap $category @product",
        ],
    ),
    intent(
        2,
        "SELECT name FROM products ORDER BY price DESC LIMIT $n",
        &[
            "@list the {$n_text} @expensive @products",
            "What are the {$n_text} @products with the @highest price?",
            "{Top $n_text|The $n_text top} @products by price",
        ],
    ),
    intent(
        2,
        "SELECT name FROM products ORDER BY stock LIMIT $n",
        &[
            "@list the {$n_text} @products with the @lowest stock",
            "{Which|What} {$n_text} @products have the {least|smallest} stock?",
        ],
    ),
    intent(
        2,
        "SELECT name FROM employees WHERE city = '$work_city' ORDER BY salary DESC LIMIT 1",
        &[
            "@who earns the most in $work_city?",
            "@which @employee in $work_city has the @highest salary?",
            "Who is the best paid @employee in $work_city?",
        ],
    ),
    intent(
        2,
        "SELECT name FROM employees ORDER BY hired LIMIT 1",
        &[
            "@who has {worked here|been here} the longest?",
            "@which @employee was hired first?",
            "Who is our {longest serving|most senior} @employee?",
        ],
    ),
    intent(
        2,
        "SELECT city, COUNT(*) FROM customers GROUP BY city",
        &[
            "@many @customers are {there|we serving} @per city?",
            "@count @customers @per city",
            "Break [our ]@customers down by city",
        ],
    ),
    intent(
        2,
        "SELECT category, AVG(price) FROM products GROUP BY category",
        &[
            "@what the @average price @per category",
            "@average price of @each category?",
            "{How much|What} do @products cost on average @per category?",
        ],
    ),
    intent(
        2,
        "SELECT status, COUNT(*) FROM orders GROUP BY status",
        &[
            "@many @orders are {there|we counting} @per status?",
            "@count @orders @per status",
            "Break [our ]@orders down by status",
        ],
    ),
    intent(
        2,
        "SELECT role, AVG(salary) FROM employees GROUP BY role",
        &["@what the @average salary @per role", "{How much|What} does @each role {earn|make} on average?"],
    ),
    intent(
        2,
        "SELECT city FROM customers GROUP BY city ORDER BY COUNT(*) DESC LIMIT 1",
        &[
            "@which city {has|is home to} the @most @customers?",
            "Where do {most of our|the most} @customers live?",
            "In which city are the @most @customers?",
        ],
    ),
    intent(
        2,
        "SELECT COUNT(DISTINCT city) FROM customers WHERE country = '$country'",
        &[
            "{In how many|How many} {different|distinct} cities {of|in} $country {do we have|are our} @customers?",
            "From how many {different|distinct} cities in $country do our @customers come?",
        ],
    ),
    intent(
        2,
        "SELECT name FROM products WHERE category = '$category' AND price < $under",
        &[
            "@which $category @products {cost|are} @under $under[ euros]?",
            "@list {all |the }$category @products {priced |}@under $under",
            "What is there in $category for @under $under[ euros]?",
        ],
    ),
    intent(
        2,
        "SELECT SUM(quantity) FROM orders WHERE year = $year",
        &[
            "@what the @total quantity {ordered|sold} in $year",
            "How many pieces {did we sell|were sold|were ordered} in $year[ in @total]?",
        ],
    ),
    // Joins and subqueries.
    intent(
        3,
        "SELECT COUNT(*) FROM orders JOIN customers USING (customer_id) WHERE name = '$customer'",
        &[
            "@many @orders did $customer {place|make}?",
            "@count @orders {by|from|of} [@customer ]$customer",
            "How often did $customer {order|buy}?",
        ],
    ),
    intent(
        3,
        "SELECT COUNT(*) FROM orders JOIN customers USING (customer_id) WHERE city = '$city'",
        &["@many @orders {came|come} from $city?", "@count @orders {by|from} @customers in $city"],
    ),
    intent(
        3,
        "SELECT SUM(quantity) FROM orders JOIN products USING (product_id) WHERE name = '$product'",
        &[
            "{How many pieces|What quantity} of the $product {did we sell|were sold|were ordered}?",
            "@what the @total quantity {ordered|sold} of the $product",
        ],
    ),
    intent(
        3,
        "SELECT SUM(price * quantity) FROM orders JOIN products USING (product_id) WHERE category = '$category'",
        &[
            "@what the [@total ]revenue {of|from|in} [the category ]$category",
            "How much {money|revenue} {did we make|came in} with $category?",
        ],
    ),
    intent(
        3,
        "SELECT SUM(price * quantity) FROM orders JOIN products USING (product_id) WHERE year = $year",
        &["@what the [@total ]revenue {of|in|for} $year", "How much {money|revenue} {did we make|came in} in $year?"],
    ),
    intent(
        3,
        "SELECT products.name FROM products JOIN suppliers USING (supplier_id) WHERE suppliers.name = '$supplier'",
        &[
            "@which @products {come from|are supplied by|do we get from} [the @supplier ]$supplier?",
            "@list {all |the }@products {of|from|by} [the @supplier ]$supplier",
            "What does $supplier {supply|deliver|provide}[ us with]?",
        ],
    ),
    intent(
        3,
        "SELECT suppliers.name FROM products JOIN suppliers USING (supplier_id) WHERE products.name = '$product'",
        &[
            "{Who supplies|Who delivers|Where do we get} the $product{| from}?",
            "@which @supplier {supplies|delivers|provides} the $product?",
            "@what the @supplier of the $product",
        ],
    ),
    intent(
        3,
        "SELECT COUNT(*) FROM products JOIN suppliers USING (supplier_id) WHERE country = '$supplier_country'",
        &[
            "@many @products {come|do we get} from $supplier_country?",
            "@count @products supplied from $supplier_country",
        ],
    ),
    intent(
        3,
        "SELECT DISTINCT customers.name FROM orders JOIN customers USING (customer_id) JOIN products USING (product_id) WHERE products.name = '$product'",
        &[
            "@which @customers {bought|ordered} the $product?",
            "@list {all |the }@customers who {bought|ordered} the $product",
            "Who has {bought|ordered} the $product?",
        ],
    ),
    intent(
        3,
        "SELECT products.name FROM orders JOIN products USING (product_id) GROUP BY products.name ORDER BY SUM(quantity) DESC LIMIT 1",
        &["@which @product {sold|sells} best?", "@what {our best selling|the best selling|the most popular} @product"],
    ),
    intent(
        3,
        "SELECT name FROM employees WHERE salary > (SELECT AVG(salary) FROM employees)",
        &[
            "@which @employees {earn|make} @over [the ]average?",
            "@list {all |the }@employees with {a salary @over the average|an above average salary}",
        ],
    ),
    intent(
        3,
        "SELECT name FROM products WHERE price > (SELECT AVG(price) FROM products)",
        &[
            "@which @products {cost|are} @over [the ]average?",
            "@list {all |the }@products with {a price @over the average|an above average price}",
        ],
    ),
];
