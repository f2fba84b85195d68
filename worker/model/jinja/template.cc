#include "worker/model/jinja/template.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/model/jinja/filters.h"
#include "worker/model/jinja/parser.h"

namespace shiftadd::jinja {
namespace {

using Kind = Expression::Kind;
using Result = absl::StatusOr<Value>;

constexpr int64_t kMaxSteps = 2'000'000;
constexpr size_t kMaxOutput = size_t{16} << 20;
constexpr int kMaxMacroDepth = 50;
constexpr int kMaxValueDepth = 64;
constexpr int64_t kMaxRange = 100'000;

absl::Status Fault(absl::string_view what) { return absl::InvalidArgumentError(what); }

// Python's slice of `size` elements: the indices it takes.
absl::StatusOr<std::vector<int64_t>> SliceIndices(const Value parts[3], int64_t size) {
  int64_t step = 1;
  if (!parts[2].is_none() && !parts[2].AsInteger(&step)) return Fault("a slice needs integers");
  if (step == 0) return Fault("a slice's step must not be 0");
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? size : size - 1;
  int64_t bounds[2] = {step > 0 ? low : high, step > 0 ? high : low};
  for (int i = 0; i < 2; ++i) {
    if (parts[i].is_none()) continue;
    int64_t at = 0;
    if (!parts[i].AsInteger(&at)) return Fault("a slice needs integers");
    if (at < 0) at += size;
    bounds[i] = std::clamp(at, low, high);
  }
  std::vector<int64_t> out;
  for (int64_t i = bounds[0]; step > 0 ? i < bounds[1] : i > bounds[1]; i += step) {
    out.push_back(i);
  }
  return out;
}

// What a name may hold: no namespace inside of another value (it could hold itself), nothing nested
// so deeply that taking it apart would take the stack.
bool MayHold(const Value& value, int depth) {
  if (depth > kMaxValueDepth) return false;
  if (value.list() != nullptr) {
    return std::all_of(value.list()->begin(), value.list()->end(),
                       [&](const Value& item) { return MayHold(item, depth + 1); });
  }
  if (value.dict() == nullptr) return true;
  if (value.dict()->is_namespace) return depth == 0;
  return std::all_of(value.dict()->items.begin(), value.dict()->items.end(),
                     [&](const auto& item) { return MayHold(item.second, depth + 1); });
}

Result Arithmetic(const std::string& op, const Value& a, const Value& b) {
  int64_t i = 0, j = 0;
  double x = 0, y = 0;
  if (op == "+" && a.string() != nullptr && b.string() != nullptr) {
    return Value::MakeString(*a.string() + *b.string());
  }
  if (op == "+" && a.list() != nullptr && b.list() != nullptr) {
    List both = *a.list();
    both.insert(both.end(), b.list()->begin(), b.list()->end());
    return Value::MakeList(std::move(both));
  }
  if (op == "*" && a.string() != nullptr && b.AsInteger(&j)) {
    if (j > 0 && a.string()->size() * static_cast<uint64_t>(j) > kMaxOutput) {
      return absl::ResourceExhaustedError("a string becomes too long");
    }
    std::string out;
    for (; j > 0; --j) out += *a.string();
    return Value::MakeString(std::move(out));
  }
  if (!a.AsNumber(&x) || !b.AsNumber(&y)) {
    return Fault(absl::StrCat("'", op, "' does not take values of types ", a.TypeName(), " and ",
                              b.TypeName()));
  }
  const bool whole = a.AsInteger(&i) && b.AsInteger(&j);
  const bool divides = op == "/" || op == "//" || op == "%";
  if (divides && y == 0) return Fault("division by zero");
  if (whole && op != "/" && op != "**") {
    int64_t out = 0;
    if (op == "+" && !__builtin_add_overflow(i, j, &out)) return Value::MakeInt(out);
    if (op == "-" && !__builtin_sub_overflow(i, j, &out)) return Value::MakeInt(out);
    if (op == "*" && !__builtin_mul_overflow(i, j, &out)) return Value::MakeInt(out);
    if (j == -1 && divides)
      return op == "%" ? Value::MakeInt(0) : Arithmetic("-", Value::MakeInt(0), a);
    if (!divides) return Fault("a number is too large");
    const int64_t floor = i / j - (i % j != 0 && (i < 0) != (j < 0) ? 1 : 0);
    return Value::MakeInt(op == "//" ? floor : i - floor * j);
  }
  if (op == "+") return Value::MakeFloat(x + y);
  if (op == "-") return Value::MakeFloat(x - y);
  if (op == "*") return Value::MakeFloat(x * y);
  if (op == "/") return Value::MakeFloat(x / y);
  if (op == "//") return Value::MakeFloat(std::floor(x / y));
  if (op == "%") return Value::MakeFloat(x - std::floor(x / y) * y);
  const double power = std::pow(x, y);
  if (whole && j >= 0 && std::abs(power) < 9e15) return Value::MakeInt(std::llround(power));
  return Value::MakeFloat(power);
}

// One run of a program.
class Run {
 public:
  Run(const Dict& variables, absl::Time now) : now_(now) {
    frames_.emplace_back();
    AddFunctions();
    for (const auto& [name, value] : variables.items) frames_[0][name] = value;
    frames_.emplace_back();
  }

  absl::StatusOr<std::string> Execute(const Block& program) {
    SA_RETURN_IF_ERROR(Do(program).status());
    return std::move(out_);
  }

 private:
  enum class Flow { kNext, kBreak, kContinue };
  using Frame = std::map<std::string, Value>;

  void AddFunctions() {
    Frame& global = frames_[0];
    global["raise_exception"] = Value::MakeFunction([this](const Arguments& a) -> Result {
      raised_ = true;
      const Value* what = a.Get(0, "message");
      return Fault(
          absl::StrCat("the chat template refuses: ", what == nullptr ? "" : what->ToText()));
    });
    global["strftime_now"] = Value::MakeFunction([this](const Arguments& a) -> Result {
      const Value* format = a.Get(0, "format");
      if (format == nullptr || format->string() == nullptr) {
        return Fault("strftime_now needs a format");
      }
      return Value::MakeString(absl::FormatTime(*format->string(), now_, absl::UTCTimeZone()));
    });
    const auto dict = [](bool is_namespace) {
      return Value::MakeFunction([is_namespace](const Arguments& a) -> Result {
        Dict out;
        if (!a.positional.empty() && a.positional[0].dict() != nullptr) {
          out = *a.positional[0].dict();
        }
        for (const auto& [name, value] : a.named) out.Set(name, value);
        out.is_namespace = is_namespace;
        return Value::MakeDict(std::move(out));
      });
    };
    global["namespace"] = dict(true);
    global["dict"] = dict(false);
    global["range"] = Value::MakeFunction([](const Arguments& a) -> Result {
      int64_t numbers[3] = {0, 0, 1};
      const size_t count = a.positional.size();
      if (count < 1 || count > 3) return Fault("range takes one to three integers");
      for (size_t i = 0; i < count; ++i) {
        if (!a.positional[i].AsInteger(&numbers[count == 1 ? 1 : i])) {
          return Fault("range takes one to three integers");
        }
      }
      if (numbers[2] == 0) return Fault("range: the step must not be 0");
      List out;
      for (int64_t i = numbers[0]; numbers[2] > 0 ? i < numbers[1] : i > numbers[1];
           i += numbers[2]) {
        if (static_cast<int64_t>(out.size()) >= kMaxRange) {
          return absl::ResourceExhaustedError("a range is too long");
        }
        out.push_back(Value::MakeInt(i));
      }
      return Value::MakeList(std::move(out));
    });
  }

  absl::Status Step() {
    if (++steps_ > kMaxSteps) return absl::ResourceExhaustedError("the chat template does not end");
    return absl::OkStatus();
  }
  absl::Status Print(absl::string_view text) {
    if (out_.size() + text.size() > kMaxOutput) {
      return absl::ResourceExhaustedError("the chat template prints too much");
    }
    absl::StrAppend(&out_, text);
    return absl::OkStatus();
  }

  // --- Statements --------------------------------------------------------------------------------
  absl::StatusOr<Flow> Do(const Block& block) {
    for (const auto& statement : block) {
      absl::StatusOr<Flow> flow = Do(*statement);
      if (!flow.ok()) {
        if (raised_ || std::exchange(placed_, true)) return flow;
        return Annotate(flow.status(), absl::StrCat("chat template: line ", statement->line));
      }
      if (*flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  absl::StatusOr<Flow> Do(const Statement& s) {
    SA_RETURN_IF_ERROR(Step());
    switch (s.kind) {
      case Statement::Kind::kText:
        SA_RETURN_IF_ERROR(Print(s.text));
        return Flow::kNext;
      case Statement::Kind::kOutput: {
        SA_ASSIGN_OR_RETURN(const Value value, Evaluate(*s.expressions[0]));
        SA_RETURN_IF_ERROR(Print(value.ToText()));
        return Flow::kNext;
      }
      case Statement::Kind::kIf:
        return If(s);
      case Statement::Kind::kFor:
        return For(s);
      case Statement::Kind::kSet: {
        SA_ASSIGN_OR_RETURN(Value value, Evaluate(*s.expressions[0]));
        return Set(s, std::move(value));
      }
      case Statement::Kind::kSetBlock: {
        SA_ASSIGN_OR_RETURN(std::string text, Capture(s.blocks[0]));
        return Set(s, Value::MakeString(std::move(text)));
      }
      case Statement::Kind::kMacro:
        frames_.back()[s.text] = Value::MakeFunction(
            [this, &s](const Arguments& arguments) { return CallMacro(s, arguments); });
        return Flow::kNext;
      case Statement::Kind::kGeneration:
        return Do(s.blocks[0]);
      case Statement::Kind::kBreak:
        return Flow::kBreak;
      case Statement::Kind::kContinue:
        return Flow::kContinue;
    }
    return absl::InternalError("no such statement");
  }

  absl::StatusOr<Flow> If(const Statement& s) {
    for (size_t i = 0; i < s.expressions.size(); ++i) {
      SA_ASSIGN_OR_RETURN(const Value test, Evaluate(*s.expressions[i]));
      if (test.Truth()) return Do(s.blocks[i]);
    }
    return s.blocks.size() > s.expressions.size() ? Do(s.blocks.back())
                                                  : absl::StatusOr<Flow>(Flow::kNext);
  }

  absl::StatusOr<Flow> Set(const Statement& s, Value value) {
    if (!MayHold(value, s.names.size() == 1 ? 0 : 1)) {
      return Fault(absl::StrCat("'", s.names[0],
                                "' cannot be set to a value that is nested too "
                                "deeply or holds a namespace"));
    }
    if (s.names.size() == 1) {
      frames_.back()[s.names[0]] = std::move(value);
      return Flow::kNext;
    }
    const Value target = Lookup(s.names[0]);
    if (target.dict() == nullptr || !target.dict()->is_namespace) {
      return Fault(absl::StrCat("'", s.names[0], "' is no namespace: its members cannot be set"));
    }
    target.mutable_dict()->Set(s.names[1], std::move(value));
    return Flow::kNext;
  }

  absl::Status Bind(const Statement& s, const Value& item) {
    if (s.names.size() == 1) {
      frames_.back()[s.names[0]] = item;
      return absl::OkStatus();
    }
    SA_ASSIGN_OR_RETURN(const List parts, item.Items());
    if (parts.size() != s.names.size()) {
      return Fault(
          absl::StrCat("a loop over ", s.names.size(), " names got ", parts.size(), " values"));
    }
    for (size_t i = 0; i < parts.size(); ++i) frames_.back()[s.names[i]] = parts[i];
    return absl::OkStatus();
  }

  absl::StatusOr<Flow> For(const Statement& s) {
    SA_ASSIGN_OR_RETURN(const Value iterated, Evaluate(*s.expressions[0]));
    SA_ASSIGN_OR_RETURN(List items, iterated.Items());
    if (s.expressions[1] != nullptr) {
      List kept;
      for (const Value& item : items) {
        SA_RETURN_IF_ERROR(Step());
        frames_.emplace_back();
        const absl::Status bound = Bind(s, item);
        const absl::StatusOr<Value> holds =
            bound.ok() ? Evaluate(*s.expressions[1]) : absl::StatusOr<Value>(bound);
        frames_.pop_back();
        SA_RETURN_IF_ERROR(holds.status());
        if (holds->Truth()) kept.push_back(item);
      }
      items = std::move(kept);
    }
    for (size_t i = 0; i < items.size(); ++i) {
      SA_RETURN_IF_ERROR(Step());
      frames_.emplace_back();
      frames_.back()["loop"] = LoopValue(items, i);
      absl::StatusOr<Flow> flow = Flow::kNext;
      if (const absl::Status bound = Bind(s, items[i]); !bound.ok()) {
        flow = bound;
      } else {
        flow = Do(s.blocks[0]);
      }
      frames_.pop_back();
      if (!flow.ok()) return flow;
      if (*flow == Flow::kBreak) break;
    }
    if (items.empty() && s.blocks.size() > 1) return Do(s.blocks[1]);
    return Flow::kNext;
  }

  static Value LoopValue(const List& items, size_t i) {
    const int64_t index = static_cast<int64_t>(i), size = static_cast<int64_t>(items.size());
    Dict loop;
    loop.items = {
        {"index0", Value::MakeInt(index)},
        {"index", Value::MakeInt(index + 1)},
        {"revindex0", Value::MakeInt(size - index - 1)},
        {"revindex", Value::MakeInt(size - index)},
        {"first", Value::MakeBool(index == 0)},
        {"last", Value::MakeBool(index + 1 == size)},
        {"length", Value::MakeInt(size)},
        {"previtem", index > 0 ? items[i - 1] : Value::UndefinedNamed("previtem")},
        {"nextitem", index + 1 < size ? items[i + 1] : Value::UndefinedNamed("nextitem")}};
    return Value::MakeDict(std::move(loop));
  }

  absl::StatusOr<std::string> Capture(const Block& block) {
    std::string outer = std::exchange(out_, "");
    const absl::StatusOr<Flow> flow = Do(block);
    std::string inner = std::exchange(out_, std::move(outer));
    SA_RETURN_IF_ERROR(flow.status());
    return inner;
  }

  // A macro knows the program's own names and its arguments, nothing of who calls it.
  Result CallMacro(const Statement& s, const Arguments& arguments) {
    if (arguments.positional.size() > s.names.size()) {
      return Fault(absl::StrCat("the macro '", s.text, "' takes ", s.names.size(), " arguments"));
    }
    if (++macro_depth_ > kMaxMacroDepth) {
      return absl::ResourceExhaustedError("macros call each other too deeply");
    }
    std::vector<Frame> callers(std::make_move_iterator(frames_.begin() + 2),
                               std::make_move_iterator(frames_.end()));
    frames_.resize(2);
    frames_.emplace_back();
    absl::StatusOr<std::string> text = std::string();
    for (size_t i = 0; i < s.names.size() && text.ok(); ++i) {
      const Value* given = arguments.Get(i, s.names[i]);
      absl::StatusOr<Value> value = given != nullptr ? *given : Value();
      if (given == nullptr && s.expressions[i] != nullptr) value = Evaluate(*s.expressions[i]);
      if (value.ok()) {
        frames_.back()[s.names[i]] = *std::move(value);
      } else {
        text = value.status();
      }
    }
    if (text.ok()) text = Capture(s.blocks[0]);
    frames_.resize(2);
    std::move(callers.begin(), callers.end(), std::back_inserter(frames_));
    --macro_depth_;
    if (!text.ok()) return text.status();
    return Value::MakeString(*std::move(text));
  }

  // --- Expressions -------------------------------------------------------------------------------
  Value Lookup(const std::string& name) const {
    for (auto frame = frames_.rbegin(); frame != frames_.rend(); ++frame) {
      const auto found = frame->find(name);
      if (found != frame->end()) return found->second;
    }
    return Value::UndefinedNamed(name);
  }

  Result Evaluate(const Expression& e) {
    SA_RETURN_IF_ERROR(Step());
    switch (e.kind) {
      case Kind::kConstant:
        return e.constant;
      case Kind::kName:
        return Lookup(e.text);
      case Kind::kList: {
        List list;
        SA_RETURN_IF_ERROR(EvaluateAll(e, 0, &list));
        return Value::MakeList(std::move(list));
      }
      case Kind::kDict:
        return MakeDict(e);
      case Kind::kUnary:
        return Unary(e);
      case Kind::kBinary:
        return Binary(e);
      case Kind::kCompare:
        return CompareChain(e);
      case Kind::kCondition: {
        SA_ASSIGN_OR_RETURN(const Value test, Evaluate(*e.operands[1]));
        if (test.Truth()) return Evaluate(*e.operands[0]);
        return e.operands[2] != nullptr ? Evaluate(*e.operands[2]) : Value();
      }
      case Kind::kAttribute: {
        SA_ASSIGN_OR_RETURN(const Value value, Evaluate(*e.operands[0]));
        return GetMember(value, e.text);
      }
      case Kind::kItem:
        return Item(e);
      case Kind::kSlice:
        return Slice(e);
      case Kind::kCall:
        return Call(e);
      case Kind::kFilter: {
        SA_ASSIGN_OR_RETURN(const Value value, Evaluate(*e.operands[0]));
        SA_ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(e));
        return ApplyFilter(e.text, value, arguments);
      }
      case Kind::kTest: {
        SA_ASSIGN_OR_RETURN(const Value value, Evaluate(*e.operands[0]));
        List arguments;
        SA_RETURN_IF_ERROR(EvaluateAll(e, 1, &arguments));
        SA_ASSIGN_OR_RETURN(const bool holds, ApplyTest(e.text, value, arguments));
        return Value::MakeBool(holds);
      }
    }
    return absl::InternalError("no such expression");
  }

  absl::Status EvaluateAll(const Expression& e, size_t from, List* out) {
    for (size_t i = from; i < e.operands.size(); ++i) {
      SA_ASSIGN_OR_RETURN(Value value, Evaluate(*e.operands[i]));
      out->push_back(std::move(value));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Arguments> EvaluateArguments(const Expression& e) {
    Arguments arguments;
    SA_RETURN_IF_ERROR(EvaluateAll(e, 1, &arguments.positional));
    for (const auto& [name, expression] : e.named) {
      SA_ASSIGN_OR_RETURN(Value value, Evaluate(*expression));
      arguments.named.emplace_back(name, std::move(value));
    }
    return arguments;
  }

  Result MakeDict(const Expression& e) {
    Dict dict;
    for (size_t i = 0; i + 1 < e.operands.size(); i += 2) {
      SA_ASSIGN_OR_RETURN(const Value key, Evaluate(*e.operands[i]));
      if (key.string() == nullptr) return Fault("a dict's keys must be strings");
      SA_ASSIGN_OR_RETURN(Value value, Evaluate(*e.operands[i + 1]));
      dict.Set(*key.string(), std::move(value));
    }
    return Value::MakeDict(std::move(dict));
  }

  Result Unary(const Expression& e) {
    SA_ASSIGN_OR_RETURN(const Value value, Evaluate(*e.operands[0]));
    if (e.text == "not") return Value::MakeBool(!value.Truth());
    return Arithmetic(e.text, Value::MakeInt(0), value);
  }

  Result Binary(const Expression& e) {
    SA_ASSIGN_OR_RETURN(Value left, Evaluate(*e.operands[0]));
    if (e.text == "and" && !left.Truth()) return left;
    if (e.text == "or" && left.Truth()) return left;
    SA_ASSIGN_OR_RETURN(Value right, Evaluate(*e.operands[1]));
    if (e.text == "and" || e.text == "or") return right;
    if (e.text == "~") return Value::MakeString(left.ToText() + right.ToText());
    for (const Value* side : {&left, &right}) {
      if (side->is_undefined()) {
        return Fault(absl::StrCat("'", e.text, "' takes a value that is not defined"));
      }
    }
    return Arithmetic(e.text, left, right);
  }

  Result CompareChain(const Expression& e) {
    SA_ASSIGN_OR_RETURN(Value left, Evaluate(*e.operands[0]));
    for (size_t i = 0; i < e.operators.size(); ++i) {
      SA_ASSIGN_OR_RETURN(Value right, Evaluate(*e.operands[i + 1]));
      const std::string& op = e.operators[i];
      bool holds = false;
      if (op == "==" || op == "!=") {
        holds = left.Equals(right) == (op == "==");
      } else if (op == "in" || op == "not in") {
        SA_ASSIGN_OR_RETURN(const bool there, Contains(right, left));
        holds = there == (op == "in");
      } else {
        SA_ASSIGN_OR_RETURN(const int order, Compare(left, right));
        holds = op == "<"    ? order < 0
                : op == ">"  ? order > 0
                : op == "<=" ? order <= 0
                             : order >= 0;
      }
      if (!holds) return Value::MakeBool(false);
      left = std::move(right);
    }
    return Value::MakeBool(true);
  }

  Result Item(const Expression& e) {
    SA_ASSIGN_OR_RETURN(const Value value, Evaluate(*e.operands[0]));
    SA_ASSIGN_OR_RETURN(const Value index, Evaluate(*e.operands[1]));
    if (index.string() != nullptr) return GetMember(value, *index.string());
    if (value.is_undefined()) return GetMember(value, index.ToText());
    int64_t at = 0;
    if (!index.AsInteger(&at) || value.dict() != nullptr) return Value();
    if (value.list() == nullptr && value.string() == nullptr) return Value();
    SA_ASSIGN_OR_RETURN(const List items, value.Items());
    if (at < 0) at += static_cast<int64_t>(items.size());
    if (at < 0 || at >= static_cast<int64_t>(items.size())) return Value();
    return items[static_cast<size_t>(at)];
  }

  Result Slice(const Expression& e) {
    SA_ASSIGN_OR_RETURN(const Value value, Evaluate(*e.operands[0]));
    if (value.list() == nullptr && value.string() == nullptr) {
      return Fault(absl::StrCat("a value of type ", value.TypeName(), " cannot be sliced"));
    }
    Value parts[3];
    for (int i = 0; i < 3; ++i) {
      parts[i] = Value::MakeNone();
      if (e.operands[static_cast<size_t>(i) + 1] == nullptr) continue;
      SA_ASSIGN_OR_RETURN(parts[i], Evaluate(*e.operands[static_cast<size_t>(i) + 1]));
    }
    SA_ASSIGN_OR_RETURN(const List items, value.Items());
    SA_ASSIGN_OR_RETURN(const std::vector<int64_t> indices,
                        SliceIndices(parts, static_cast<int64_t>(items.size())));
    List out;
    std::string text;
    for (const int64_t i : indices) {
      const Value& item = items[static_cast<size_t>(i)];
      if (value.string() != nullptr) {
        text += *item.string();
      } else {
        out.push_back(item);
      }
    }
    return value.string() != nullptr ? Value::MakeString(std::move(text))
                                     : Value::MakeList(std::move(out));
  }

  Result Call(const Expression& e) {
    const Expression& callee = *e.operands[0];
    SA_ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(e));
    if (callee.kind == Kind::kAttribute) {
      SA_ASSIGN_OR_RETURN(const Value object, Evaluate(*callee.operands[0]));
      if (HasMethod(object, callee.text)) return CallMethod(object, callee.text, arguments);
      SA_ASSIGN_OR_RETURN(const Value member, GetMember(object, callee.text));
      if (member.function() != nullptr) return (*member.function())(arguments);
      return CallMethod(object, callee.text, arguments);  // says that there is none
    }
    SA_ASSIGN_OR_RETURN(const Value function, Evaluate(callee));
    if (function.function() != nullptr) return (*function.function())(arguments);
    if (callee.kind == Kind::kName && function.is_undefined()) {
      return absl::UnimplementedError(
          absl::StrCat("the function '", callee.text, "' is not supported"));
    }
    return Fault(absl::StrCat("a value of type ", function.TypeName(), " cannot be called"));
  }

  const absl::Time now_;
  std::vector<Frame> frames_;  // what is given, the program's own, then loops and macros
  std::string out_;
  int64_t steps_ = 0;
  int macro_depth_ = 0;
  bool raised_ = false;  // by raise_exception: the message is whole
  bool placed_ = false;  // the message names a line
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Template>> Template::Parse(absl::string_view source) {
  absl::StatusOr<Block> program = jinja::Parse(source);
  if (!program.ok()) return Annotate(program.status(), "chat template");
  return std::shared_ptr<const Template>(new Template(*std::move(program)));
}

absl::StatusOr<std::string> Template::Render(const Dict& variables, absl::Time now) const {
  Run run(variables, now);
  return run.Execute(program_);
}

}  // namespace shiftadd::jinja
