"""The stories behind the lab pair's word problems, one block each; `problems.py` turns a block into text.

A block is:

    name: a=2-9 b=2,4,8 t=a*b          numbers: a range, a list, or computed from the earlier ones
      The story, with {slots} and (one wording|another).
      The question.
      u = a * t : what the step says about {u}      one line a step; // is division with a remainder

`{A}` and `{B}` are two people (`{he}`, `{his}` and `{him}` refer to A), other slots draw a word of that kind.
`stories.py` composes many more blocks of this kind, the held-out ones among them.
"""

BLOCKS = """
buy_two: a=2-9 p=2-12 b=2-9 q=2-12
  {A} buys {a} {item} for {p} dollars each and {b} {other} for {q} dollars each.
  (How much does {A} pay in all?|What is the total cost?|How many dollars does {A} spend?)
  u = a * p : the {item} cost {u} dollars
  v = b * q : the {other} cost {v} dollars
  w = u + v : {A} (pays|spends) {w} dollars in all

buy_change: a=2-9 p=2-12 c=3-40 m=a*p+c
  {A} has {m} dollars. {A} buys {a} {item} that cost {p} dollars each.
  (How much money is left?|How many dollars does {A} have left?)
  u = a * p : the {item} cost {u} dollars
  w = m - u : {A} has {w} dollars left

buy_each: n=2-9 p=2-15 t=n*p
  {A} (pays|paid) {t} dollars for {n} {item}. Each of the {item} costs the same.
  (What is the price of one?|How much does one cost?)
  w = t / n : one costs {w} dollars

buy_more: n=2-6 p=2-12 t=n*p m=7-12
  At the {place}, {n} {item} cost {t} dollars.
  (How much do {m} {item} cost there?|What would {A} pay for {m} {item}?)
  u = t / n : one costs {u} dollars
  w = m * u : {m} {item} cost {w} dollars

sell_profit: n=3-12 p=2-8 d=1-6 q=p+d
  {A} buys {n} {item} for {p} dollars each and sells them all for {q} dollars each.
  (How much profit does {A} make?|What is {his} profit?)
  u = n * p : {A} pays {u} dollars
  v = n * q : {A} gets {v} dollars
  w = v - u : the profit is {w} dollars

save_weeks: s=2-20 n=3-12 b=5-60
  {A} has {b} dollars and saves {s} dollars every week.
  (How much does {A} have after {n} weeks?|How many dollars will {A} have in {n} weeks?)
  u = s * n : {A} saves {u} dollars in {n} weeks
  w = b + u : {A} has {w} dollars after {n} weeks

save_goal: s=2-15 n=2-12 b=5-50 g=s*n+b
  {A} wants to buy a bicycle for {g} dollars. {A} already has {b} dollars and saves {s} dollars every week.
  How many weeks does it take?
  u = g - b : {A} still needs {u} dollars
  w = u / s : it takes {w} weeks

share_equal: n=2-9 k=2-15 t=n*k
  {A} shares {t} {small} equally among {n} friends.
  How many {small} does each friend get?
  w = t / n : each friend gets {w} {small}

share_keep: n=2-8 k=2-12 c=2-12 t=n*k+c
  {A} has {t} {small}. {A} keeps {c} of them and shares the rest equally among {n} friends.
  How many {small} does each friend get?
  u = t - c : there are {u} {small} to share
  w = u / n : each friend gets {w} {small}

share_bags: b=2-9 k=2-12 n=2-6 c=b*n
  {A} has {c} bags with {k} {small} in each bag. {A} shares the bags equally with {n} children.
  How many {small} does each child get?
  u = c / n : each child gets {u} bags
  w = u * k : each child gets {w} {small}

pack_rest: n=4-9 q=2-12 r=2,3 t=n*q+r
  {A} packs {t} {small} into boxes of {n}.
  How many {small} are left over?
  u = t // n : {A} fills {u} boxes
  v = u * n : {v} {small} are in boxes
  w = t - v : {w} {small} are left over

pack_boxes: n=4-9 q=2-12 r=2,3 t=n*q+r
  There are {t} {small} at the {place}. One box holds {n} of them.
  How many boxes are needed for all of them?
  u = t // n : {u} boxes are full and some {small} remain
  w = u + 1 : {w} boxes are needed

pack_cost: n=2-9 q=2-9 t=n*q p=2-9
  {A} puts {t} {small} into bags of {n} and sells each bag for {p} dollars.
  How much money does {A} get?
  u = t / n : {A} has {u} bags
  w = u * p : {A} gets {w} dollars

travel_far: v=10-90 h=2-9
  A {vehicle} goes {v} km every hour. It travels for {h} hours.
  (How far does it go?|How many km does it travel?)
  w = v * h : the {vehicle} goes {w} km

travel_time: v=10-60 h=2-9 d=v*h
  A {vehicle} goes {v} km every hour. The way to {town} is {d} km long.
  (How many hours does it take?|How long does the {vehicle} travel?)
  w = d / v : the {vehicle} takes {w} hours

travel_speed: v=10-60 h=2-9 d=v*h
  A {vehicle} travels {d} km to {town} in {h} hours.
  How many km does it go in one hour?
  w = d / h : the {vehicle} goes {w} km in one hour

travel_two: v=10-60 h=2-6 u=10-60 k=2-6
  A {vehicle} travels for {h} hours at {v} km an hour, and then for {k} hours at {u} km an hour.
  How far does it travel in all?
  x = v * h : the first part is {x} km long
  y = u * k : the second part is {y} km long
  w = x + y : the {vehicle} travels {w} km in all

travel_left: v=10-60 h=2-6 c=5-90 d=v*h+c
  It is {d} km to {town}. {A} drives for {h} hours at {v} km an hour.
  How many km are left?
  u = v * h : {A} drives {u} km
  w = d - u : {w} km are left

travel_back: d=5-45 n=2-6
  {A} lives {d} km from {town}. In one week {A} goes there and back {n} times.
  How many km does {A} travel in that week?
  u = d * 2 : there and back is {u} km
  w = u * n : {A} travels {w} km

age_sum: a=5-40 d=2-20
  {A} is {a} years old. {B} is {d} years older than {A}.
  (How old are they together?|What is the sum of their ages?)
  u = a + d : {B} is {u} years old
  w = a + u : together they are {w} years old

age_times: a=3-15 k=2-5
  {A} is {a} years old. {B} is {k} times as old as {A}.
  How many years older than {A} is {B}?
  u = a * k : {B} is {u} years old
  w = u - a : {B} is {w} years older

age_future: a=5-40 d=2-15 n=2-20
  {A} is {a} years old, and {B} is {d} years older.
  How old will {B} be in {n} years?
  u = a + d : {B} is {u} years old now
  w = u + n : {B} will be {w} years old

age_past: d=2-20 n=2-15 b=4-30 a=b+n+d
  {A} is {a} years old. {B} is {d} years younger than {A}.
  How old was {B} {n} years ago?
  u = a - d : {B} is {u} years old now
  w = u - n : {B} was {w} years old

percent_of: k=2-9 t=k*100 p=2-12
  There are {t} people at the {place}, and {p} percent of them are children.
  How many children are there?
  u = t / 100 : one percent of the people is {u}
  w = u * p : there are {w} children

percent_off: k=2-9 t=k*100 p=5-40
  A {gadget} costs {t} dollars. In a sale the price falls by {p} percent.
  (What is the new price?|How much does it cost in the sale?)
  u = t / 100 : one percent of the price is {u} dollars
  v = u * p : the price falls by {v} dollars
  w = t - v : the new price is {w} dollars

percent_up: k=2-8 t=k*100 p=2-20
  {A} earns {t} dollars a month. Next year {he} will earn {p} percent more.
  How much will {A} earn a month next year?
  u = t / 100 : one percent is {u} dollars
  v = u * p : {A} will get {v} dollars more
  w = t + v : {A} will earn {w} dollars a month

area_rect: a=3-30 b=2-9
  A {room} is {a} m long and {b} m wide.
  What is its area in square metres?
  w = a * b : the area of the {room} is {w} square metres

area_fence: a=4-40 b=3-30
  {A} builds a fence around a {room} that is {a} m long and {b} m wide.
  How many metres of fence does {A} need?
  u = a + b : one long and one short side are {u} m
  w = u * 2 : {A} needs {w} m of fence

area_tiles: a=3-12 b=2-9 p=2-9
  The floor of a {room} is {a} m long and {b} m wide. One square metre of floor costs {p} dollars.
  What does the whole floor cost?
  u = a * b : the area is {u} square metres
  w = u * p : the whole floor costs {w} dollars

area_two: a=3-12 b=2-9 c=3-12 d=2-9
  One {room} is {a} m long and {b} m wide. Another one is {c} m long and {d} m wide.
  What is the area of the two together?
  u = a * b : the area of the first is {u} square metres
  v = c * d : the area of the second is {v} square metres
  w = u + v : the area of the two is {w} square metres

area_side: a=3-20 b=2-9 t=a*b
  A {room} has an area of {t} square metres. It is {b} m wide.
  How long is it?
  w = t / b : the {room} is {w} m long

rate_work: n=2-12 h=2-9
  {A} makes {n} {small} in one hour and works {h} hours a day.
  How many {small} does {A} make in 5 days?
  u = n * h : {A} makes {u} {small} a day
  w = u * 5 : {A} makes {w} {small} in 5 days

rate_two: n=2-12 m=2-12 h=2-9
  {A} makes {n} {small} an hour and {B} makes {m} {small} an hour.
  How many {small} do they make together in {h} hours?
  u = n + m : together they make {u} {small} an hour
  w = u * h : together they make {w} {small}

rate_fill: r=3-20 n=2-12 t=r*n
  A tank holds {t} litres of water. {r} litres run in every minute.
  After how many minutes is the tank full?
  w = t / r : the tank is full after {w} minutes

rate_leak: r=7-20 l=1-5 n=2-15
  Every minute {r} litres of water run into a tank and {l} litres run out again.
  How many litres are in the tank after {n} minutes?
  u = r - l : the tank gains {u} litres a minute
  w = u * n : there are {w} litres in the tank

unit_hours: h=2-9 m=5-55
  {A} works at the {place} for {h} hours and {m} minutes.
  How many minutes is that?
  u = h * 60 : {h} hours are {u} minutes
  w = u + m : {A} works for {w} minutes

unit_weeks: n=2-9 k=2-12
  {A} eats {k} {small} every day.
  How many {small} does {A} eat in {n} weeks?
  u = n * 7 : {n} weeks are {u} days
  w = u * k : {A} eats {w} {small}

unit_metres: m=2-9 c=10-95
  A rope is {m} m and {c} cm long.
  How long is it in cm?
  u = m * 100 : {m} m are {u} cm
  w = u + c : the rope is {w} cm long

unit_cut: m=2-8 p=5,10,20,25,50
  {A} has a rope of {m} m and cuts it into pieces of {p} cm.
  How many pieces are there?
  u = m * 100 : the rope is {u} cm long
  w = u / p : there are {w} pieces

average_three: x=2-30 a=x+3 d=1-6 b=x+d c=x+9-d
  {A} reads {a} pages on Monday, {b} pages on Tuesday and {c} pages on Wednesday.
  (How many pages is that a day on average?|What is the average number of pages a day?)
  u = a + b : {A} reads {u} pages in the first two days
  v = u + c : {A} reads {v} pages in all three days
  w = v / 3 : the average is {w} pages a day

average_two: w=6-60 d=1-4 a=w-d b=w+d
  {A} has {a} points in the first game and {b} points in the second game.
  What is the average of the two games?
  u = a + b : {A} has {u} points in all
  x = u / 2 : the average is {x} points

average_total: a=5-40 n=3-9
  {A} walks {a} km a day on average.
  How many km does {A} walk in {n} days?
  w = a * n : {A} walks {w} km in {n} days

compare_more: a=5-60 d=2-30
  {A} has {a} {small}, and {B} has {d} {small} more than {A}.
  How many {small} do they have together?
  u = a + d : {B} has {u} {small}
  w = a + u : together they have {w} {small}

compare_less: d=2-30 b=3-50 a=b+d
  {A} has {a} {small}, and {B} has {d} fewer than {A}.
  How many {small} do they have together?
  u = a - d : {B} has {u} {small}
  w = a + u : together they have {w} {small}

compare_times: a=2-20 k=2-6
  {A} finds {a} {small}. {B} finds {k} times as many.
  How many {small} do {A} and {B} find together?
  u = a * k : {B} finds {u} {small}
  w = a + u : together they find {w} {small}

compare_price: p=3-15 d=2-9 q=p+d n=2-9
  At the {place} a ticket costs {q} dollars. A ticket for a child costs only {p} dollars.
  How many dollars less do {n} children pay than {n} others?
  u = q - p : one child pays {u} dollars less
  w = u * n : {n} children pay {w} dollars less

equation_add: x=2-60 a=2-40 b=x+a
  {A} thinks of a number. When {he} adds {a} to it, {he} gets {b}.
  What is the number?
  w = b - a : the number is {w}

equation_mul: x=2-20 k=2-9 a=2-30 b=x*k+a
  {A} thinks of a number. When {he} multiplies it by {k} and then adds {a}, {he} gets {b}.
  What is the number?
  u = b - a : {k} times the number is {u}
  w = u / k : the number is {w}

equation_sub: x=3-20 k=2-9 a=1-5 b=x*k-a
  {k} times a number less {a} is {b}.
  What is the number?
  u = b + a : {k} times the number is {u}
  w = u / k : the number is {w}

stock_left: n=3-12 k=3-12 d=2-8
  The {place} has {n} boxes with {k} {item} in each box. On {day} it sells {d} of the {item}.
  How many {item} are left?
  u = n * k : there are {u} {item} in the boxes
  w = u - d : {w} {item} are left

stock_days: u=2-15 d=3-9 c=5-40 t=u*d+c
  The {place} has {t} {item} and sells {u} of them every day.
  How many {item} are left after {d} days?
  v = u * d : the {place} sells {v} {item} in {d} days
  w = t - v : {w} {item} are left

gain_lose: a=20-60 b=12-40 c=3-30
  {A} has {a} {small}. On {day} {he} gets {b} more and then gives {c} to {B}.
  How many {small} does {A} have now?
  u = a + b : {A} has {u} {small} at first
  w = u - c : {A} has {w} {small} now

animals: a=2-12 b=2-15
  {A} sees {a} horses and {b} birds. A horse has 4 legs and a bird has 2 legs.
  How many legs are there in all?
  u = a * 4 : the horses have {u} legs
  v = b * 2 : the birds have {v} legs
  w = u + v : there are {w} legs in all

rows: r=3-12 n=4-12 e=2-9
  A hall has {r} rows with {n} chairs in each row. {e} chairs are empty.
  How many people sit in the hall?
  u = r * n : there are {u} chairs
  w = u - e : {w} people sit in the hall

garden: a=3-12 b=3-12 c=4-12 d=2-9
  {A} plants {a} rows with {b} flowers in each row and {c} rows with {d} trees in each row.
  How many plants are there in all?
  u = a * b : there are {u} flowers
  v = c * d : there are {v} trees
  w = u + v : there are {w} plants in all

baker: n=2-9 q=3-12 s=2-12 t=n*q+s
  {A} bakes {t} {food}. {A} sells {s} of them and puts the rest on {n} plates equally.
  How many {food} are on each plate?
  u = t - s : there are {u} {food} left
  w = u / n : there are {w} {food} on each plate

taxi: b=3-9 p=2-5 d=3-20
  A taxi costs {b} dollars and {p} dollars more for every km. {A} goes {d} km to {town}.
  How much does {A} pay?
  u = p * d : {d} km cost {u} dollars
  w = b + u : {A} pays {w} dollars in all

books: a=7-20 d=2-5 n=4-12
  {A} reads {a} pages a day. {B} reads {d} pages a day less than {A}.
  How many pages does {B} read in {n} days?
  u = a - d : {B} reads {u} pages a day
  w = u * n : {B} reads {w} pages in {n} days

milk: n=2-9 k=4-20 p=2-4
  A farm has {n} cows. Each cow gives {k} litres of milk a day, and one litre costs {p} dollars.
  How many dollars does the farm get a day?
  u = n * k : the cows give {u} litres a day
  w = u * p : the farm gets {w} dollars a day

bus: a=12-60 b=2-10 c=3-20
  There are {a} people on a bus to {town}. At the {place}, {b} people leave and {c} others get on.
  How many people are on the bus now?
  u = a - b : there are {u} people left
  w = u + c : there are {w} people on the bus now

paint: a=3-12 b=2-9 n=2-6
  {A} paints {n} walls. Each wall is {a} m long and {b} m high.
  How many square metres does {A} paint?
  u = a * b : the area of one wall is {u} square metres
  w = u * n : {A} paints {w} square metres

twins: x=2-15 k=2-6 n=2-12
  {A} is {x} years old, and {B} is {k} times as old.
  How old will {B} be in {n} years?
  u = x * k : {B} is {u} years old now
  w = u + n : {B} will be {w} years old

shelf: n=4-9 q=3-12 r=2,3 t=n*q+r
  The {place} puts {t} {item} on shelves. One shelf holds {n} of them.
  How many {item} remain when no other shelf can be filled?
  u = t // n : {u} shelves are full
  v = u * n : {v} {item} are on shelves
  w = t - v : {w} {item} are left over
"""
