#include "worker/model/jinja/parser.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/model/jinja/filters.h"
#include "worker/model/jinja/lexer.h"

namespace shiftadd::jinja {
namespace {

using Kind = Expression::Kind;
constexpr int kMaxDepth = 100;

// Recursive descent; every method leaves at_ behind what it read.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<Block> Run() {
    SA_ASSIGN_OR_RETURN(Block block, ParseBlock({}));
    return block;
  }

 private:
  const Token& Now() const { return tokens_[at_]; }
  bool IsOperator(absl::string_view text) const {
    return Now().kind == Token::Kind::kOperator && Now().text == text;
  }
  bool IsName(absl::string_view text) const {
    return Now().kind == Token::Kind::kName && Now().text == text;
  }
  bool TakeOperator(absl::string_view text) { return IsOperator(text) && ++at_; }
  bool TakeName(absl::string_view text) { return IsName(text) && ++at_; }

  absl::Status Fault(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("line ", Now().line, ": ", what));
  }
  absl::Status Unsupported(absl::string_view what, absl::string_view name) const {
    return absl::UnimplementedError(
        absl::StrCat("line ", Now().line, ": ", what, " '", name, "' is not supported"));
  }
  absl::Status Expect(absl::string_view op) {
    if (TakeOperator(op)) return absl::OkStatus();
    return Fault(absl::StrCat("expected '", op, "', found '", Now().text, "'"));
  }
  absl::StatusOr<std::string> Name() {
    if (Now().kind != Token::Kind::kName) {
      return Fault(absl::StrCat("expected a name, found '", Now().text, "'"));
    }
    return tokens_[at_++].text;
  }
  absl::Status EndTag() {
    if (Now().kind != Token::Kind::kBlockEnd) {
      return Fault(absl::StrCat("expected %}, found '", Now().text, "'"));
    }
    ++at_;
    return absl::OkStatus();
  }

  // --- Statements --------------------------------------------------------------------------------
  // Until a tag that begins with one of `ends`, whose name is left to read; without any: the end.
  absl::StatusOr<Block> ParseBlock(std::initializer_list<absl::string_view> ends) {
    if (++depth_ > kMaxDepth) return Fault("nested too deeply");
    Block block;
    while (true) {
      if (Now().kind == Token::Kind::kEnd) {
        if (ends.size() > 0) return Fault(absl::StrCat("expected {% ", *(ends.end() - 1), " %}"));
        break;
      }
      if (Now().kind == Token::Kind::kText) {
        block.push_back(New(Statement::Kind::kText));
        block.back()->text = tokens_[at_++].text;
        continue;
      }
      if (Now().kind == Token::Kind::kOutputBegin) {
        SA_ASSIGN_OR_RETURN(std::unique_ptr<Statement> output, ParseOutput());
        block.push_back(std::move(output));
        continue;
      }
      ++at_;  // {%
      if (Now().kind == Token::Kind::kName &&
          std::find(ends.begin(), ends.end(), Now().text) != ends.end()) {
        break;
      }
      SA_ASSIGN_OR_RETURN(std::unique_ptr<Statement> statement, ParseStatement());
      block.push_back(std::move(statement));
    }
    --depth_;
    return block;
  }

  std::unique_ptr<Statement> New(Statement::Kind kind) const {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = Now().line;
    return statement;
  }

  absl::StatusOr<std::unique_ptr<Statement>> ParseOutput() {
    ++at_;
    auto statement = New(Statement::Kind::kOutput);
    SA_ASSIGN_OR_RETURN(ExpressionPtr value, ParseTuple());
    statement->expressions.push_back(std::move(value));
    if (Now().kind != Token::Kind::kOutputEnd) {
      return Fault(absl::StrCat("expected }}, found '", Now().text, "'"));
    }
    ++at_;
    return statement;
  }

  absl::StatusOr<std::unique_ptr<Statement>> ParseStatement() {
    if (TakeName("if")) return ParseIf();
    if (TakeName("for")) return ParseFor();
    if (TakeName("set")) return ParseSet();
    if (TakeName("macro")) return ParseMacro();
    if (TakeName("generation")) return ParseGeneration();
    const bool leave = IsName("break");
    if (leave || IsName("continue")) {
      auto statement = New(leave ? Statement::Kind::kBreak : Statement::Kind::kContinue);
      if (loops_ == 0) return Fault(absl::StrCat("'", Now().text, "' outside of a loop"));
      ++at_;
      SA_RETURN_IF_ERROR(EndTag());
      return statement;
    }
    return Unsupported("the statement", Now().text);
  }

  absl::StatusOr<std::unique_ptr<Statement>> ParseIf() {
    auto statement = New(Statement::Kind::kIf);
    while (true) {
      SA_ASSIGN_OR_RETURN(ExpressionPtr test, ParseTuple());
      statement->expressions.push_back(std::move(test));
      SA_RETURN_IF_ERROR(EndTag());
      SA_ASSIGN_OR_RETURN(Block body, ParseBlock({"elif", "else", "endif"}));
      statement->blocks.push_back(std::move(body));
      if (TakeName("elif")) continue;
      if (TakeName("else")) {
        SA_RETURN_IF_ERROR(EndTag());
        SA_ASSIGN_OR_RETURN(Block other, ParseBlock({"endif"}));
        statement->blocks.push_back(std::move(other));
      }
      ++at_;  // endif
      SA_RETURN_IF_ERROR(EndTag());
      return statement;
    }
  }

  absl::StatusOr<std::unique_ptr<Statement>> ParseFor() {
    auto statement = New(Statement::Kind::kFor);
    do {
      SA_ASSIGN_OR_RETURN(std::string name, Name());
      statement->names.push_back(std::move(name));
    } while (TakeOperator(","));
    if (!TakeName("in")) return Fault("expected 'in'");
    SA_ASSIGN_OR_RETURN(ExpressionPtr iterated, ParseTuple(/*conditions=*/false));
    statement->expressions.push_back(std::move(iterated));
    statement->expressions.push_back(nullptr);
    if (TakeName("if")) {
      SA_ASSIGN_OR_RETURN(statement->expressions[1], ParseExpression());
    }
    if (IsName("recursive")) return Unsupported("a loop that is", "recursive");
    SA_RETURN_IF_ERROR(EndTag());
    ++loops_;
    SA_ASSIGN_OR_RETURN(Block body, ParseBlock({"else", "endfor"}));
    --loops_;
    statement->blocks.push_back(std::move(body));
    if (TakeName("else")) {
      SA_RETURN_IF_ERROR(EndTag());
      SA_ASSIGN_OR_RETURN(Block other, ParseBlock({"endfor"}));
      statement->blocks.push_back(std::move(other));
    }
    ++at_;  // endfor
    SA_RETURN_IF_ERROR(EndTag());
    return statement;
  }

  absl::StatusOr<std::unique_ptr<Statement>> ParseSet() {
    auto statement = New(Statement::Kind::kSet);
    SA_ASSIGN_OR_RETURN(std::string name, Name());
    statement->names.push_back(std::move(name));
    if (TakeOperator(".")) {
      SA_ASSIGN_OR_RETURN(std::string member, Name());
      statement->names.push_back(std::move(member));
    }
    if (TakeOperator("=")) {
      SA_ASSIGN_OR_RETURN(ExpressionPtr value, ParseTuple());
      statement->expressions.push_back(std::move(value));
      SA_RETURN_IF_ERROR(EndTag());
      return statement;
    }
    if (IsOperator(",")) return Unsupported("setting several names:", ",");
    if (IsOperator("|")) return Unsupported("a filter of a set block:", "|");
    SA_RETURN_IF_ERROR(EndTag());
    statement->kind = Statement::Kind::kSetBlock;
    SA_ASSIGN_OR_RETURN(Block body, ParseBlock({"endset"}));
    statement->blocks.push_back(std::move(body));
    ++at_;
    SA_RETURN_IF_ERROR(EndTag());
    return statement;
  }

  absl::StatusOr<std::unique_ptr<Statement>> ParseMacro() {
    auto statement = New(Statement::Kind::kMacro);
    SA_ASSIGN_OR_RETURN(statement->text, Name());
    SA_RETURN_IF_ERROR(Expect("("));
    while (!TakeOperator(")")) {
      if (!statement->names.empty()) SA_RETURN_IF_ERROR(Expect(","));
      SA_ASSIGN_OR_RETURN(std::string name, Name());
      statement->names.push_back(std::move(name));
      statement->expressions.push_back(nullptr);
      if (TakeOperator("=")) {
        SA_ASSIGN_OR_RETURN(statement->expressions.back(), ParseExpression());
      }
    }
    SA_RETURN_IF_ERROR(EndTag());
    const int loops = std::exchange(loops_, 0);
    SA_ASSIGN_OR_RETURN(Block body, ParseBlock({"endmacro"}));
    loops_ = loops;
    statement->blocks.push_back(std::move(body));
    ++at_;
    if (Now().kind == Token::Kind::kName) ++at_;  // its name again
    SA_RETURN_IF_ERROR(EndTag());
    return statement;
  }

  absl::StatusOr<std::unique_ptr<Statement>> ParseGeneration() {
    auto statement = New(Statement::Kind::kGeneration);
    SA_RETURN_IF_ERROR(EndTag());
    SA_ASSIGN_OR_RETURN(Block body, ParseBlock({"endgeneration"}));
    statement->blocks.push_back(std::move(body));
    ++at_;
    SA_RETURN_IF_ERROR(EndTag());
    return statement;
  }

  // --- Expressions, loosest first ----------------------------------------------------------------
  ExpressionPtr Make(Kind kind, std::string text = "") const {
    auto e = std::make_unique<Expression>();
    e->kind = kind;
    e->line = Now().line;
    e->text = std::move(text);
    return e;
  }
  ExpressionPtr Make(Kind kind, std::string text, ExpressionPtr a,
                     ExpressionPtr b = nullptr) const {
    ExpressionPtr e = Make(kind, std::move(text));
    e->operands.push_back(std::move(a));
    if (b != nullptr) e->operands.push_back(std::move(b));
    return e;
  }

  // One expression, or several with commas between them: a list.
  absl::StatusOr<ExpressionPtr> ParseTuple(bool conditions = true) {
    SA_ASSIGN_OR_RETURN(ExpressionPtr first, conditions ? ParseExpression() : ParseOr());
    if (!IsOperator(",")) return first;
    ExpressionPtr list = Make(Kind::kList, "", std::move(first));
    while (TakeOperator(",")) {
      if (!StartsExpression()) break;
      SA_ASSIGN_OR_RETURN(ExpressionPtr next, conditions ? ParseExpression() : ParseOr());
      list->operands.push_back(std::move(next));
    }
    return list;
  }

  bool StartsExpression() const {
    return Now().kind == Token::Kind::kName || Now().kind == Token::Kind::kString ||
           Now().kind == Token::Kind::kInteger || Now().kind == Token::Kind::kFloat ||
           IsOperator("(") || IsOperator("[") || IsOperator("{") || IsOperator("-");
  }

  absl::StatusOr<ExpressionPtr> ParseExpression() {
    if (++depth_ > kMaxDepth) return Fault("nested too deeply");
    SA_ASSIGN_OR_RETURN(ExpressionPtr value, ParseOr());
    while (TakeName("if")) {
      ExpressionPtr condition = Make(Kind::kCondition);
      condition->operands.push_back(std::move(value));
      SA_ASSIGN_OR_RETURN(ExpressionPtr test, ParseOr());
      condition->operands.push_back(std::move(test));
      ExpressionPtr other;
      if (TakeName("else")) {
        SA_ASSIGN_OR_RETURN(other, ParseExpression());
      }
      condition->operands.push_back(std::move(other));
      value = std::move(condition);
    }
    --depth_;
    return value;
  }

  using Level = absl::StatusOr<ExpressionPtr> (Parser::*)();
  absl::StatusOr<ExpressionPtr> Binary(std::initializer_list<absl::string_view> operators,
                                       Level next, Token::Kind kind = Token::Kind::kOperator) {
    SA_ASSIGN_OR_RETURN(ExpressionPtr left, (this->*next)());
    while (Now().kind == kind &&
           std::find(operators.begin(), operators.end(), Now().text) != operators.end()) {
      std::string op = tokens_[at_++].text;
      SA_ASSIGN_OR_RETURN(ExpressionPtr right, (this->*next)());
      left = Make(Kind::kBinary, std::move(op), std::move(left), std::move(right));
    }
    return left;
  }

  absl::StatusOr<ExpressionPtr> ParseOr() {
    return Binary({"or"}, &Parser::ParseAnd, Token::Kind::kName);
  }
  absl::StatusOr<ExpressionPtr> ParseAnd() {
    return Binary({"and"}, &Parser::ParseNot, Token::Kind::kName);
  }
  absl::StatusOr<ExpressionPtr> ParseNot() {
    if (!TakeName("not")) return ParseCompare();
    if (++depth_ > kMaxDepth) return Fault("nested too deeply");
    SA_ASSIGN_OR_RETURN(ExpressionPtr value, ParseNot());
    --depth_;
    return Make(Kind::kUnary, "not", std::move(value));
  }

  absl::StatusOr<ExpressionPtr> ParseCompare() {
    SA_ASSIGN_OR_RETURN(ExpressionPtr left, ParseSum());
    ExpressionPtr compare;
    while (true) {
      std::string op;
      for (const char* candidate : {"==", "!=", "<=", ">=", "<", ">"}) {
        if (op.empty() && TakeOperator(candidate)) op = candidate;
      }
      if (op.empty() && TakeName("in")) op = "in";
      if (op.empty() && IsName("not") && tokens_[at_ + 1].kind == Token::Kind::kName &&
          tokens_[at_ + 1].text == "in") {
        at_ += 2;
        op = "not in";
      }
      if (op.empty()) return compare != nullptr ? std::move(compare) : std::move(left);
      if (compare == nullptr) compare = Make(Kind::kCompare, "", std::move(left));
      compare->operators.push_back(std::move(op));
      SA_ASSIGN_OR_RETURN(ExpressionPtr right, ParseSum());
      compare->operands.push_back(std::move(right));
    }
  }

  absl::StatusOr<ExpressionPtr> ParseSum() { return Binary({"+", "-"}, &Parser::ParseConcat); }
  absl::StatusOr<ExpressionPtr> ParseConcat() { return Binary({"~"}, &Parser::ParseProduct); }
  absl::StatusOr<ExpressionPtr> ParseProduct() {
    return Binary({"*", "/", "//", "%"}, &Parser::ParsePower);
  }
  absl::StatusOr<ExpressionPtr> ParsePower() { return Binary({"**"}, &Parser::ParseUnary); }

  absl::StatusOr<ExpressionPtr> ParseUnary() { return ParseSigned(/*filters=*/true); }

  absl::StatusOr<ExpressionPtr> ParseSigned(bool filters) {
    if (++depth_ > kMaxDepth) return Fault("nested too deeply");
    ExpressionPtr value;
    if (IsOperator("-") || IsOperator("+")) {
      std::string op = tokens_[at_++].text;
      SA_ASSIGN_OR_RETURN(ExpressionPtr operand, ParseSigned(/*filters=*/false));
      value = Make(Kind::kUnary, std::move(op), std::move(operand));
    } else {
      SA_ASSIGN_OR_RETURN(value, ParsePrimary());
      SA_ASSIGN_OR_RETURN(value, ParsePostfix(std::move(value)));
    }
    --depth_;
    if (!filters) return value;
    return ParseFilters(std::move(value));
  }

  absl::StatusOr<ExpressionPtr> ParsePrimary() {
    ExpressionPtr e = Make(Kind::kConstant);
    const Token& token = Now();
    switch (token.kind) {
      case Token::Kind::kString: {
        std::string text;
        while (Now().kind == Token::Kind::kString) text += tokens_[at_++].text;
        e->constant = Value::MakeString(std::move(text));
        return e;
      }
      case Token::Kind::kInteger: {
        int64_t i = 0;
        if (!absl::SimpleAtoi(token.text, &i)) return Fault("a number is too large");
        e->constant = Value::MakeInt(i);
        break;
      }
      case Token::Kind::kFloat: {
        double d = 0;
        if (!absl::SimpleAtod(token.text, &d)) return Fault("a number is malformed");
        e->constant = Value::MakeFloat(d);
        break;
      }
      case Token::Kind::kName:
        if (token.text == "true" || token.text == "True") {
          e->constant = Value::MakeBool(true);
        } else if (token.text == "false" || token.text == "False") {
          e->constant = Value::MakeBool(false);
        } else if (token.text == "none" || token.text == "None") {
          e->constant = Value::MakeNone();
        } else {
          e->kind = Kind::kName;
          e->text = token.text;
        }
        break;
      default:
        if (TakeOperator("(")) return ParseParentheses();
        if (TakeOperator("[")) return ParseList();
        if (TakeOperator("{")) return ParseDict();
        return Fault(absl::StrCat("expected a value, found '", token.text, "'"));
    }
    ++at_;
    return e;
  }

  absl::StatusOr<ExpressionPtr> ParseParentheses() {
    if (TakeOperator(")")) return Make(Kind::kList);
    SA_ASSIGN_OR_RETURN(ExpressionPtr value, ParseTuple());
    SA_RETURN_IF_ERROR(Expect(")"));
    return value;
  }

  absl::StatusOr<ExpressionPtr> ParseList() {
    ExpressionPtr list = Make(Kind::kList);
    while (!TakeOperator("]")) {
      if (!list->operands.empty()) SA_RETURN_IF_ERROR(Expect(","));
      if (TakeOperator("]")) break;
      SA_ASSIGN_OR_RETURN(ExpressionPtr item, ParseExpression());
      list->operands.push_back(std::move(item));
    }
    return list;
  }

  absl::StatusOr<ExpressionPtr> ParseDict() {
    ExpressionPtr dict = Make(Kind::kDict);
    while (!TakeOperator("}")) {
      if (!dict->operands.empty()) SA_RETURN_IF_ERROR(Expect(","));
      if (TakeOperator("}")) break;
      SA_ASSIGN_OR_RETURN(ExpressionPtr key, ParseExpression());
      SA_RETURN_IF_ERROR(Expect(":"));
      SA_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
      dict->operands.push_back(std::move(key));
      dict->operands.push_back(std::move(value));
    }
    return dict;
  }

  absl::StatusOr<ExpressionPtr> ParsePostfix(ExpressionPtr value) {
    while (true) {
      if (TakeOperator(".")) {
        SA_ASSIGN_OR_RETURN(std::string name, Name());
        value = Make(Kind::kAttribute, std::move(name), std::move(value));
      } else if (TakeOperator("[")) {
        SA_ASSIGN_OR_RETURN(value, ParseSubscript(std::move(value)));
      } else if (IsOperator("(")) {
        ExpressionPtr call = Make(Kind::kCall, "", std::move(value));
        SA_RETURN_IF_ERROR(ParseArguments(call.get()));
        value = std::move(call);
      } else {
        return value;
      }
    }
  }

  absl::StatusOr<ExpressionPtr> ParseSubscript(ExpressionPtr value) {
    ExpressionPtr parts[3];
    int part = 0;
    bool slice = false;
    while (!TakeOperator("]")) {
      if (TakeOperator(":")) {
        slice = true;
        if (++part > 2) return Fault("a slice has at most three parts");
        continue;
      }
      if (parts[part] != nullptr) return Fault("expected ']'");
      SA_ASSIGN_OR_RETURN(parts[part], ParseExpression());
    }
    if (!slice && parts[0] == nullptr) return Fault("expected an index");
    if (!slice) return Make(Kind::kItem, "", std::move(value), std::move(parts[0]));
    ExpressionPtr out = Make(Kind::kSlice, "", std::move(value));
    for (ExpressionPtr& p : parts) out->operands.push_back(std::move(p));
    return out;
  }

  absl::Status ParseArguments(Expression* call) {
    SA_RETURN_IF_ERROR(Expect("("));
    for (bool first = true; !TakeOperator(")"); first = false) {
      if (!first) SA_RETURN_IF_ERROR(Expect(","));
      if (TakeOperator(")")) break;
      if (IsOperator("*") || IsOperator("**")) return Unsupported("unpacking by", Now().text);
      const bool named = Now().kind == Token::Kind::kName &&
                         tokens_[at_ + 1].kind == Token::Kind::kOperator &&
                         tokens_[at_ + 1].text == "=";
      std::string name;
      if (named) {
        name = Now().text;
        at_ += 2;
      }
      SA_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
      if (named) {
        call->named.emplace_back(std::move(name), std::move(value));
      } else {
        call->operands.push_back(std::move(value));
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<ExpressionPtr> ParseFilters(ExpressionPtr value) {
    while (true) {
      if (TakeOperator("|")) {
        SA_ASSIGN_OR_RETURN(std::string name, Name());
        if (!IsFilter(name)) return Unsupported("the filter", name);
        value = Make(Kind::kFilter, std::move(name), std::move(value));
        if (IsOperator("(")) SA_RETURN_IF_ERROR(ParseArguments(value.get()));
      } else if (TakeName("is")) {
        SA_ASSIGN_OR_RETURN(value, ParseTest(std::move(value)));
      } else if (IsOperator("(")) {
        ExpressionPtr call = Make(Kind::kCall, "", std::move(value));
        SA_RETURN_IF_ERROR(ParseArguments(call.get()));
        value = std::move(call);
      } else {
        return value;
      }
    }
  }

  absl::StatusOr<ExpressionPtr> ParseTest(ExpressionPtr value) {
    const bool negated = TakeName("not");
    SA_ASSIGN_OR_RETURN(std::string name, Name());
    if (!IsTest(name)) return Unsupported("the test", name);
    ExpressionPtr test = Make(Kind::kTest, std::move(name), std::move(value));
    const bool word = Now().kind == Token::Kind::kName;
    const bool ends = IsName("else") || IsName("or") || IsName("and") || IsName("is") ||
                      IsName("if") || IsName("not") || IsName("in");
    if (IsOperator("(")) {
      SA_RETURN_IF_ERROR(ParseArguments(test.get()));
    } else if ((word && !ends) || Now().kind == Token::Kind::kString ||
               Now().kind == Token::Kind::kInteger || Now().kind == Token::Kind::kFloat ||
               IsOperator("[")) {
      SA_ASSIGN_OR_RETURN(ExpressionPtr argument, ParsePrimary());
      SA_ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
      test->operands.push_back(std::move(argument));
    }
    return negated ? Make(Kind::kUnary, "not", std::move(test)) : std::move(test);
  }

  const std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;
};

}  // namespace

absl::StatusOr<Block> Parse(absl::string_view source) {
  SA_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace shiftadd::jinja
