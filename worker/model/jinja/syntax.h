// The syntax tree of a template program.
#ifndef SHIFTADD_WORKER_MODEL_JINJA_SYNTAX_H_
#define SHIFTADD_WORKER_MODEL_JINJA_SYNTAX_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "worker/model/jinja/value.h"

namespace shiftadd::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    kConstant,   // constant
    kName,       // text
    kList,       // operands
    kDict,       // operands: key, value, key, value…
    kUnary,      // text (not, -, +), operand
    kBinary,     // text (an operator, "and", "or"), two operands
    kCompare,    // operands; `operators` between them
    kCondition,  // operands: value, test, other (null: undefined)
    kAttribute,  // operand . text
    kItem,       // operands: value, index
    kSlice,      // operands: value, start, stop, step (null: left out)
    kCall,       // operands: callee, arguments…; named
    kFilter,     // text; operands: value, arguments…; named
    kTest,       // text; operands: value, arguments…
  } kind;
  int line = 0;
  std::string text;
  Value constant;
  std::vector<ExpressionPtr> operands;
  std::vector<std::string> operators;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

struct Statement;
using Block = std::vector<std::unique_ptr<Statement>>;

struct Statement {
  enum class Kind {
    kText,        // text
    kOutput,      // expressions[0]
    kIf,          // expressions[i] guards blocks[i]; one block more: else
    kFor,         // names; expressions: what is iterated, filter (may be null); blocks: body, else
    kSet,         // names (one, or two: namespace and member); expressions[0]
    kSetBlock,    // names; blocks[0]
    kMacro,       // text; names: parameters; expressions: their defaults (null: none); blocks[0]
    kGeneration,  // blocks[0]; marks the assistant's words for training, prints them
    kBreak,
    kContinue,
  } kind;
  int line = 0;
  std::string text;
  std::vector<std::string> names;
  std::vector<ExpressionPtr> expressions;
  std::vector<Block> blocks;
};

}  // namespace shiftadd::jinja

#endif  // SHIFTADD_WORKER_MODEL_JINJA_SYNTAX_H_
