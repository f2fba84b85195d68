#include "worker/serve/openai_api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <set>
#include <thread>

#include "worker/serve/testing/tiny_server.h"
#include "worker/serve/text_stream.h"

namespace shiftadd {
namespace {

using nlohmann::json;
using testing::FakeWriter;
using ::testing::HasSubstr;
using testing::ReferenceLogits;
using testing::TinyServer;

constexpr char kCompletions[] = "/v1/completions";
constexpr char kChat[] = "/v1/chat/completions";

class OpenAiApi : public ::testing::Test {
 protected:
  // One server for all tests: they leave it idle.
  static void SetUpTestSuite() { server_ = new TinyServer(); }
  static void TearDownTestSuite() { delete server_; }
  static TinyServer* server_;
};
TinyServer* OpenAiApi::server_ = nullptr;

json Greedy(const json& prompt, int max_tokens) {
  return {{"model", "tiny:latest"},
          {"prompt", prompt},
          {"max_tokens", max_tokens},
          {"temperature", 0},
          {"ignore_eos", true}};
}

json ChatBody(const std::string& text) {
  return {{"model", "tiny"},
          {"messages", {{{"role", "user"}, {"content", text}}}},
          {"max_tokens", 6},
          {"temperature", 0},
          {"ignore_eos", true}};
}

// serving.md, bad input, last column.
TEST_F(OpenAiApi, BadInputTable) {
  const json user = {{{"role", "user"}, {"content", "x"}}};
  const auto with = [](json body, const char* field, const json& value) {
    body[field] = value;
    return body.dump();
  };
  const json completion = Greedy("ab", 2);
  const json chat = ChatBody("ab");
  const json many(300'000, user[0]);
  const struct {
    const char* path;
    std::string body;
    int status;
    const char* says;  // part of the message
  } rows[] = {
      {kCompletions, "{", 400, "not valid JSON"},
      {kCompletions, R"({"prompt":"\ud800"})", 400,
       "JSON: byte 18: syntax error while parsing value"},
      {kCompletions, R"({"prompt":"\ud800"})", 400, "invalid string: surrogate U+D800"},
      {kCompletions, R"({"prompt":"x","seed":1e999})", 400, "number overflow parsing '1e999'"},
      {kCompletions, "[" + std::string(1'000'000, '9'), 400, "byte 1000001: number overflow"},
      {kCompletions, R"({"prompt":"a"}{"prompt":"b"})", 400, "byte 15: syntax error"},
      {kCompletions, "", 400, "empty"},
      {kCompletions, "{\"prompt\":\"\xff\"}", 400, "UTF-8"},
      {kCompletions, std::string(100000, '['), 400, "deeper"},
      {kChat, std::string(100000, '['), 400, "deeper"},
      {kCompletions, "[1]", 400, "object"},
      {kChat, "{\"model\":\"tiny\"}", 400, "messages: is missing"},
      {kChat, with(chat, "messages", "hello"), 400, "messages: must be a list"},
      {kChat, with(chat, "messages", json::array()), 400, "messages: is empty"},
      {kChat, with(chat, "messages", {{{"role", "user"}, {"content", 5}}}), 400,
       "messages[0].content"},
      {kChat, with(chat, "messages", {{{"role", "wizard"}, {"content", "x"}}}), 400, "wizard"},
      {kChat, with(chat, "messages", {{{"content", "x"}}}), 400, "messages[0].role"},
      {kChat, with(chat, "messages", {5}), 400, "messages[0]"},
      {kChat, with(chat, "max_tokens", "many"), 400, "max_tokens: must be an integer"},
      {kChat, with(chat, "temperature", "hot"), 400, "temperature: must be a number"},
      {kCompletions, with(completion, "unknown_field", 1), 200, ""},
      {kCompletions, with(completion, "model", "gpt-4"), 404, "gpt-4"},
      {kChat, with(chat, "model", "tiny:other"), 404, "tiny:other"},
      {kChat, with(chat, "model", std::string(1000, 'm')), 404, "mmm...\" is not served"},
      {kCompletions, with(completion, "model", 7), 400, "model: must be a string"},
      {kCompletions, with(completion, "max_tokens", -5), 400, "-5"},
      {kCompletions, with(completion, "max_tokens", 1000000000000), 400, "1000000000000"},
      {kCompletions, with(completion, "max_tokens", 1.5), 400, "1.5"},
      {kCompletions, with(completion, "max_tokens", 0), 200, ""},
      {kCompletions, with(completion, "temperature", -1), 400, "temperature"},
      {kCompletions, with(completion, "top_p", 7), 400, "top_p"},
      {kCompletions, with(completion, "min_p", 1.5), 400, "min_p"},
      {kCompletions, with(completion, "top_k", -2), 400, "top_k"},
      {kCompletions, with(completion, "logprobs", -1), 400, "logprobs"},
      {kCompletions, with(completion, "n", 0), 400, "n: must be"},
      {kCompletions, with(completion, "n", 1000), 400, "n: must be"},
      {kCompletions, with(completion, "seed", "x"), 400, "seed"},
      {kCompletions, with(completion, "seed", -3), 200, ""},
      {kCompletions, with(completion, "stop", 5), 400, "stop"},
      {kCompletions, with(completion, "stop", {1, 2}), 400, "stop"},
      {kCompletions, with(completion, "stop", std::vector<std::string>(100, "x")), 400, "stop"},
      {kCompletions, "{\"prompt\":\"x\",\"temperature\":NaN}", 400, "not valid JSON"},
      {kCompletions, with(completion, "stop", nullptr), 200, ""},
      {kCompletions, with(completion, "stream_options", json::object()), 400, "stream_options"},
      {kCompletions, with(completion, "logit_bias", {{"99999", 1}}), 400, "logit_bias"},
      {kCompletions, with(completion, "suffix", "x"), 400, "suffix"},
      {kCompletions, with(completion, "best_of", 3), 400, "best_of"},
      {kCompletions, "{\"prompt\":\"x\",\"temperature\":1e999}", 400, ""},
      {kChat, with(chat, "tools", {{{"type", "function"}}}), 400, "tools"},
      {kChat, with(chat, "modalities", {"audio"}), 400, "modalities"},
      {kChat, with(chat, "add_generation_prompt", false), 400, "add_generation_prompt"},
      {kChat, with(chat, "continue_final_message", true), 400, "continue_final_message"},
      {kChat, with(chat, "response_format", {{"type", "json_object"}}), 400, "response_format"},
      {kChat, with(chat, "response_format", {{"type", "text"}}), 200, ""},
      {kChat, with(chat, "top_logprobs", 3), 400, "top_logprobs"},
      {kCompletions, with(completion, "prompt", {1, 320}), 400, "320"},
      {kCompletions, with(completion, "prompt", {1, -1}), 400, "-1"},
      {kCompletions, with(completion, "prompt", {1, 1.5}), 400, "1.5"},
      {kCompletions, with(completion, "prompt", {{1, 2}, {320}}), 400, "prompt[1]"},
      {kCompletions, with(completion, "prompt", json::array()), 400, "prompt: is empty"},
      {kCompletions, with(completion, "prompt", 5), 400, "prompt"},
      {kCompletions, with(completion, "prompt", {{"a", 1}}), 400, "prompt"},
      {kChat, with(chat, "chat_template_kwargs", {{"x", std::string(20'000, 'y')}}), 400,
       "chat_template_kwargs: takes 20008 bytes"},
      {kChat, with(chat, "messages", many), 400, "does not end (with 300000 messages)"},
      {kCompletions, "{\"model\":\"tiny\"}", 400, "prompt: is missing"},
      {"/tokenize", "{}", 400, "prompt: is missing"},
      {"/tokenize", "{\"prompt\":5}", 400, "prompt"},
      {"/tokenize", json{{"prompt", std::string(100'000, 'x')}}.dump(), 400, "context"},
      {"/tokenize",
       json{{"messages", {{{"role", "user"}, {"content", std::string(100'000, 'x')}}}}}.dump(), 400,
       "context"},
      {"/detokenize", "{}", 400, "tokens: is missing"},
      {"/detokenize", "{\"tokens\":[9999]}", 400, "9999"},
  };
  for (const auto& row : rows) {
    const http::Response response = server_->Call("POST", row.path, row.body);
    const std::string shown = row.body.substr(0, 200);
    EXPECT_EQ(response.status, row.status) << row.path << " " << shown << "\n" << response.body;
    if (row.status == 200) continue;
    const json error = json::parse(response.body)["error"];
    EXPECT_THAT(error["message"].get<std::string>(), HasSubstr(row.says)) << shown;
    EXPECT_LT(error["message"].get<std::string>().size(), 1000) << shown;
    EXPECT_TRUE(error["type"].is_string());
    if (row.status == 404) {
      EXPECT_EQ(error["code"], "model_not_found");
    } else {
      EXPECT_EQ(error["code"], row.status);
    }
  }
}

// What would change the answer is carried out or refused by name; what would not passes.
TEST_F(OpenAiApi, FieldsThatAreNotBuiltAreRefusedByName) {
  const struct {
    const char* field;
    json refused;
    std::vector<json> passed;
  } rows[] = {
      {"response_format", {{"type", "json_object"}}, {json::object({{"type", "text"}})}},
      {"response_format", {{"type", "json_schema"}, {"json_schema", {{"name", "x"}}}}, {}},
      {"structured_outputs", {{"regex", "a+"}}, {json::object()}},
      {"structural_tag", "{}", {}},
      {"json_schema", {{"type", "object"}}, {}},
      {"grammar", "root ::= \"a\"", {""}},
      {"ebnf", "root ::= \"a\"", {}},
      {"regex", "a+", {}},
      {"guided_json", {{"type", "object"}}, {}},
      {"guided_regex", "a+", {}},
      {"guided_choice", {"a", "b"}, {}},
      {"guided_grammar", "root ::= \"a\"", {}},
      {"guided_json_object", true, {false}},
      {"logits_processors", {"x"}, {json::array()}},
      {"allowed_token_ids", {1}, {}},
      {"bad_words", {"x"}, {json::array()}},
      {"tools", {{{"type", "function"}}}, {json::array()}},
      {"functions", {{{"name", "f"}}}, {json::array()}},
      {"tool_choice", "auto", {"none"}},
      {"tool_choice", "required", {}},
      {"function_call", {{"name", "f"}}, {"none"}},
      {"web_search_options", json::object(), {}},
      {"audio", {{"voice", "a"}}, {}},
      {"modalities", {"text", "audio"}, {json::array({"text"})}},
      {"documents", {{{"text", "x"}}}, {json::array()}},
      {"prompt_embeds", "AAAA", {}},
      {"suffix", "x", {""}},
      {"chat_template", "{{ messages }}", {""}},
      {"reasoning_effort", "high", {"none"}},
      {"verbosity", "low", {"medium"}},
      {"truncate_prompt_tokens", 5, {}},
      {"lora", {{{"id", 0}, {"scale", 1}}}, {json::array()}},
      {"use_beam_search", true, {false}},
      {"best_of", 3, {1}},
      {"length_penalty", 0.5, {1, 1.0}},
      {"early_stopping", true, {false}},
      {"min_tokens", 4, {0}},
      {"min_length", 4, {0}},
      {"no_repeat_ngram_size", 3, {0}},
      {"repeat_penalty", 1.1, {1, 1.0}},
      {"typical_p", 0.9, {1}},
      {"tfs_z", 0.9, {1}},
      {"top_a", 0.1, {0}},
      {"top_n_sigma", 1, {-1, 0}},
      {"epsilon_cutoff", 1e-4, {0}},
      {"eta_cutoff", 1e-4, {0}},
      {"smoothing_factor", 0.2, {0}},
      {"mirostat", 2, {0}},
      {"mirostat_mode", 2, {0}},
      {"xtc_probability", 0.5, {0}},
      {"dry_multiplier", 0.8, {0}},
      {"dynatemp_range", 0.5, {0}},
      {"n_predict", 5, {}},
      {"prompt_logprobs", 1, {}},
      {"n_probs", 3, {0}},
      {"skip_special_tokens", false, {true}},
      {"include_stop_str_in_output", true, {false}},
      {"detokenize", false, {true}},
      {"return_token_ids", true, {false}},
      {"return_tokens_as_token_ids", true, {false}},
      // Built, within limits.
      {"repetition_penalty", 0, {0.01, 1, 2}},
      {"repetition_penalty", 2.5, {}},
      {"repetition_penalty", "1.1", {}},
      {"stop_token_ids", {320}, {json::array(), json::array({5})}},
      {"stop_token_ids", 5, {}},
      {"stop_token_ids", std::vector<int>(200, 5), {}},
      {"add_special_tokens", "no", {true, false}},
      {"logit_bias", {{"5", 101}}, {json::object()}},
      {"min_p", -0.1, {0, 1}},
      {"top_k", 1.5, {-1, 0, 1, 1000000}},
  };
  for (const auto& row : rows) {
    for (const auto& [path, base] : {std::pair<const char*, json>{kCompletions, Greedy("ab", 2)},
                                     std::pair<const char*, json>{kChat, ChatBody("ab")}}) {
      json body = base;
      body[row.field] = row.refused;
      const http::Response response = server_->Call("POST", path, body.dump());
      EXPECT_EQ(response.status, 400) << body << "\n" << response.body;
      EXPECT_THAT(response.body, HasSubstr(std::string("\"") + row.field + ": ")) << body;
      std::vector<json> passed = row.passed;
      passed.push_back(nullptr);
      for (const json& value : passed) {
        body[row.field] = value;
        const http::Response answer = server_->Call("POST", path, body.dump());
        EXPECT_EQ(answer.status, 200) << body << "\n" << answer.body;
      }
    }
  }
  json chat = ChatBody("ab");
  chat["echo"] = true;
  server_->Post(kChat, chat, 400);
  chat["echo"] = false;
  // Who asks, what is kept and how soon it comes change no answer, nor does what nobody knows.
  chat.update({{"user", "u"},
               {"store", true},
               {"metadata", {{"a", "b"}}},
               {"service_tier", "auto"},
               {"parallel_tool_calls", false},
               {"prompt_cache_key", "k"},
               {"priority", 3},
               {"no_such_field", {1, 2}}});
  json plain = ChatBody("ab");
  EXPECT_EQ(server_->Post(kChat, chat)["choices"], server_->Post(kChat, plain)["choices"]);
  for (const char* name : {"tool_calls", "function_call", "audio"}) {
    json body = ChatBody("ab");
    body["messages"][0][name] = {{{"id", "x"}}};
    const http::Response response = server_->Call("POST", kChat, body.dump());
    EXPECT_EQ(response.status, 400) << body;
    EXPECT_THAT(response.body, HasSubstr(std::string("messages[0].") + name));
  }
}

TEST_F(OpenAiApi, TooLongPromptsSayHowLong) {
  const std::string text(2000, 'x');
  std::vector<int> ids(300, 5);
  for (json body : {Greedy(text, 2), Greedy(ids, 2), ChatBody(text)}) {
    for (const bool stream : {false, true}) {
      body["stream"] = stream;
      FakeWriter writer;
      const char* path = body.contains("messages") ? kChat : kCompletions;
      const http::Response response = server_->Call("POST", path, body.dump(), &writer);
      EXPECT_EQ(response.status, 400);
      EXPECT_FALSE(writer.started);
      const json error = json::parse(response.body)["error"];
      EXPECT_EQ(error["type"], "exceed_context_size_error");
      EXPECT_EQ(error["n_ctx"], 256);
      EXPECT_GT(error["n_prompt_tokens"].get<int>(), 256);
    }
  }
  // So long that it is not even encoded.
  const http::Response response =
      server_->Call("POST", kCompletions, Greedy(std::string(7 << 20, 'y'), 2).dump());
  EXPECT_EQ(response.status, 400);
}

TEST_F(OpenAiApi, GreedyCompletionIsTheReferencesArgMax) {
  const std::vector<int32_t> prompt = {5, 80, 33, 120};
  json body = Greedy(prompt, 1);
  body["logprobs"] = 2;
  const json choice = server_->Post(kCompletions, body)["choices"][0];
  const auto logits = ReferenceLogits(server_->package, prompt);
  const auto last = logits.end() - server_->package.spec.vocab;
  // The second-best logit must be far enough for A8's error.
  std::vector<double> sorted(last, logits.end());
  std::sort(sorted.rbegin(), sorted.rend());
  const int32_t best = static_cast<int32_t>(std::max_element(last, logits.end()) - last);
  if (sorted[0] - sorted[1] > 0.2 * std::abs(sorted[0])) {
    EXPECT_EQ(choice["logprobs"]["tokens"][0], openai::TokenName(*server_->tokenizer, best));
  }
  double sum = 0;
  for (auto it = last; it != logits.end(); ++it) sum += std::exp(*it - sorted[0]);
  EXPECT_NEAR(choice["logprobs"]["token_logprobs"][0].get<double>(), -std::log(sum), 0.2);
  EXPECT_EQ(choice["finish_reason"], "length");
}

// What lm-eval sends and reads (serving.md).
TEST_F(OpenAiApi, EchoWithLogprobs) {
  const std::vector<std::vector<int>> prompts = {{5, 80, 33, 120}, {7, 9}};
  json body = Greedy(prompts, 1);
  body["logprobs"] = 1;
  body["echo"] = true;
  const json answer = server_->Post(kCompletions, body);
  ASSERT_EQ(answer["choices"].size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const json& choice = answer["choices"][i];
    EXPECT_EQ(choice["index"], i);
    const json& lp = choice["logprobs"];
    const size_t size = prompts[i].size() + 1;
    for (const char* field : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
      ASSERT_EQ(lp[field].size(), size) << field;
    }
    EXPECT_TRUE(lp["token_logprobs"][0].is_null());
    EXPECT_TRUE(lp["top_logprobs"][0].is_null());
    for (size_t t = 1; t < size; ++t) {
      double top = -1e9;
      for (const auto& [name, value] : lp["top_logprobs"][t].items())
        top = std::max(top, value.get<double>());
      EXPECT_LE(lp["token_logprobs"][t].get<double>(), top);
      EXPECT_TRUE(lp["top_logprobs"][t].contains(lp["tokens"][t].get<std::string>()));
    }
    // The generated token is greedy: the likeliest.
    const auto& last = lp["top_logprobs"][size - 1];
    EXPECT_EQ(last.size(), 1u);
    EXPECT_EQ(last.begin().value(), lp["token_logprobs"][size - 1]);
  }
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 6);
  EXPECT_EQ(answer["usage"]["completion_tokens"], 2);

  body["max_tokens"] = 0;
  const json scored = server_->Post(kCompletions, body);
  EXPECT_EQ(scored["usage"]["completion_tokens"], 0);
  for (size_t i = 0; i < 2; ++i) {
    const json& values = scored["choices"][i]["logprobs"]["token_logprobs"];
    ASSERT_EQ(values.size(), prompts[i].size());
    for (size_t t = 1; t < values.size(); ++t) {
      EXPECT_EQ(values[t], answer["choices"][i]["logprobs"]["token_logprobs"][t]);
    }
  }
}

// The same offsets at once and in a stream; BOS takes room only where it is in the text.
TEST_F(OpenAiApi, TextOffsetsAreThoseOfTheText) {
  const json ids = server_->Post("/tokenize", {{"prompt", "héllo the"}})["tokens"];
  for (const json& prompt : {json("héllo the"), ids}) {
    json body = Greedy(prompt, 6);
    body["logprobs"] = 0;
    body["echo"] = true;
    const json choice = server_->Post(kCompletions, body)["choices"][0];
    const json& offsets = choice["logprobs"]["text_offset"];
    const json& tokens = choice["logprobs"]["tokens"];
    ASSERT_EQ(offsets.size(), ids.size() + 6);
    const std::string text = choice["text"];
    EXPECT_EQ(tokens[0], "<|endoftext|>");
    EXPECT_EQ(text.find("h"), prompt.is_string() ? 0u : 13u);
    int whole = 0;
    for (size_t i = prompt.is_string() ? 1 : 0; i < tokens.size(); ++i) {
      const std::string token = tokens[i];
      if (token.rfind("bytes:", 0) == 0) continue;
      size_t byte = 0;
      for (int64_t n = offsets[i]; n > 0; --n) {
        byte += FirstCharacter(absl::string_view(text).substr(byte));
      }
      EXPECT_EQ(text.substr(byte, token.size()), token) << i;
      ++whole;
    }
    EXPECT_GE(whole, 4);
    EXPECT_EQ(offsets[1], prompt.is_string() ? 0 : 13);
    body["stream"] = true;
    FakeWriter writer;
    server_->Call("POST", kCompletions, body.dump(), &writer);
    json streamed = json::array();
    for (const json& event : writer.Events()) {
      if (!event.is_object() || event["choices"].empty()) continue;
      const json& lp = event["choices"][0]["logprobs"];
      if (lp.is_null()) continue;
      streamed.insert(streamed.end(), lp["text_offset"].begin(), lp["text_offset"].end());
    }
    EXPECT_EQ(streamed, offsets);
  }
}

TEST_F(OpenAiApi, PromptsOfEveryForm) {
  EXPECT_EQ(server_->Post(kCompletions, Greedy("hello", 3))["choices"].size(), 1u);
  const json two = server_->Post(kCompletions, Greedy({"hello", "world"}, 3));
  ASSERT_EQ(two["choices"].size(), 2u);
  const json hello = server_->Post(kCompletions, Greedy("hello", 3));
  EXPECT_EQ(two["choices"][0]["text"], hello["choices"][0]["text"]);
  const json ids = server_->Post("/tokenize", {{"prompt", "hello"}})["tokens"];
  const json by_ids = server_->Post(kCompletions, Greedy(ids, 3));
  EXPECT_EQ(by_ids["choices"][0]["text"], hello["choices"][0]["text"]);
  json echo = Greedy("hello", 0);
  echo["echo"] = true;
  EXPECT_EQ(server_->Post(kCompletions, echo)["choices"][0]["text"], "hello");
  EXPECT_THAT(hello["id"].get<std::string>(), HasSubstr("cmpl-"));
  EXPECT_EQ(hello["object"], "text_completion");
  EXPECT_EQ(hello["model"], "tiny:latest");
}

TEST_F(OpenAiApi, SeedsRepeatAndChoicesDiffer) {
  json body = Greedy("hello", 12);
  body["temperature"] = 2.0;
  body["seed"] = 5;
  body["n"] = 3;
  const json first = server_->Post(kCompletions, body);
  const json second = server_->Post(kCompletions, body);
  ASSERT_EQ(first["choices"].size(), 3u);
  EXPECT_EQ(first["choices"], second["choices"]);
  EXPECT_NE(first["choices"][0]["text"], first["choices"][1]["text"]);
  // A prompt counts once, whatever n is.
  EXPECT_EQ(first["usage"]["prompt_tokens"],
            server_->Post("/tokenize", {{"prompt", "hello"}})["count"]);
  body["seed"] = 6;
  EXPECT_NE(server_->Post(kCompletions, body)["choices"], first["choices"]);
}

TEST_F(OpenAiApi, StopStringsEndTheText) {
  // Only a and b, taking turns as the penalty says.
  json body = Greedy("hello", 24);
  const json ids = server_->Post("/tokenize", {{"prompt", "a b"}, {"add_special_tokens", false}});
  body["logit_bias"][ids["tokens"].front().dump()] = 100;
  body["logit_bias"][ids["tokens"].back().dump()] = 100;
  body["frequency_penalty"] = 2;
  const std::string text = server_->Post(kCompletions, body)["choices"][0]["text"];
  ASSERT_GE(text.size(), 24u);
  const std::string stop = text.substr(text.size() / 2, 5);
  body["stop"] = {stop, "never there"};
  const json choice = server_->Post(kCompletions, body)["choices"][0];
  EXPECT_EQ(choice["text"], text.substr(0, text.find(stop)));
  EXPECT_EQ(choice["finish_reason"], "stop");
}

TEST_F(OpenAiApi, ChatAnswers) {
  json body = ChatBody("hi");
  body["logprobs"] = true;
  body["top_logprobs"] = 2;
  const json answer = server_->Post(kChat, body);
  EXPECT_EQ(answer["object"], "chat.completion");
  const json& choice = answer["choices"][0];
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_TRUE(choice["message"]["content"].is_string());
  EXPECT_EQ(choice["finish_reason"], "length");
  ASSERT_EQ(choice["logprobs"]["content"].size(), 6u);
  const json& token = choice["logprobs"]["content"][0];
  EXPECT_EQ(token["top_logprobs"].size(), 2u);
  EXPECT_EQ(token["top_logprobs"][0]["logprob"], token["logprob"]);
  EXPECT_TRUE(token["bytes"].is_array());
  EXPECT_EQ(answer["usage"]["completion_tokens"], 6);
  const json parts = {{"type", "text"}, {"text", "hi"}};
  json by_parts = ChatBody("");
  by_parts["messages"][0]["content"] = json::array({parts});
  EXPECT_EQ(server_->Post(kChat, by_parts)["choices"][0]["message"], choice["message"]);
}

TEST_F(OpenAiApi, ChatTemplateVariablesReachTheTemplate) {
  testing::TinyPackage package = testing::MakeTinyPackage({});
  json tokenizer = json::parse(package.tokenizer_json);
  tokenizer["shiftadd"]["chat_template"] =
      "{{ messages[0].content }}{% if enable_thinking %} and think{% endif %}";
  package.tokenizer_json = tokenizer.dump();
  server_->registry.Put(testing::MakeVersion(package, "thinker:x", {256, 8, 2}));
  json body = ChatBody("hi");
  body["model"] = "thinker:x";
  const json plain = server_->Post("/tokenize", body)["count"];
  const json plain_usage = server_->Post(kChat, body)["usage"]["prompt_tokens"];
  body["chat_template_kwargs"] = {{"enable_thinking", true}};
  EXPECT_GT(server_->Post("/tokenize", body)["count"], plain);
  EXPECT_GT(server_->Post(kChat, body)["usage"]["prompt_tokens"], plain_usage);
  body["chat_template_kwargs"] = {{"enable_thinking", false}};
  EXPECT_EQ(server_->Post("/tokenize", body)["count"], plain);
  body["chat_template_kwargs"] = "think";
  server_->Post(kChat, body, 400);
  body["chat_template_kwargs"] = {{"add_generation_prompt", false}};
  server_->Post("/tokenize", body, 400);
}

TEST_F(OpenAiApi, ChatStreamHasTheWholeText) {
  json body = ChatBody("hi");
  body["max_tokens"] = 20;
  const json whole = server_->Post(kChat, body);
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  FakeWriter writer;
  server_->Call("POST", kChat, body.dump(), &writer);
  EXPECT_EQ(writer.head.content_type, "text/event-stream");
  const std::vector<json> events = writer.Events();
  ASSERT_GE(events.size(), 4u);
  EXPECT_EQ(events.back(), "[DONE]");
  EXPECT_EQ(events.front()["choices"][0]["delta"]["role"], "assistant");
  const json& usage = events[events.size() - 2];
  EXPECT_TRUE(usage["choices"].empty());
  EXPECT_EQ(usage["usage"], whole["usage"]);
  const json& last = events[events.size() - 3]["choices"][0];
  EXPECT_TRUE(last["delta"].empty());
  EXPECT_EQ(last["finish_reason"], "length");
  std::string text;
  for (size_t i = 0; i + 2 < events.size(); ++i) {
    EXPECT_EQ(events[i]["object"], "chat.completion.chunk");
    EXPECT_EQ(events[i]["id"], events[0]["id"]);
    EXPECT_TRUE(events[i]["usage"].is_null());
    text += events[i]["choices"][0]["delta"].value("content", "");
  }
  EXPECT_EQ(text, whole["choices"][0]["message"]["content"]);
}

TEST_F(OpenAiApi, CompletionStreamHasTheWholeText) {
  json body = Greedy({"hello", "world"}, 10);
  body["echo"] = true;
  const json whole = server_->Post(kCompletions, body);
  body["stream"] = true;
  FakeWriter writer;
  server_->Call("POST", kCompletions, body.dump(), &writer);
  std::string text[2], finish[2];
  const std::vector<json> events = writer.Events();
  EXPECT_EQ(events.back(), "[DONE]");
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    const json& choice = events[i]["choices"][0];
    const size_t index = choice["index"];
    text[index] += choice["text"].get<std::string>();
    if (choice["finish_reason"].is_string()) finish[index] = choice["finish_reason"];
  }
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(text[i], whole["choices"][i]["text"]);
    EXPECT_EQ(finish[i], "length");
  }
}

TEST_F(OpenAiApi, AClientThatLeavesFreesItsSequence) {
  json body = Greedy("hello", 200);
  body["stream"] = true;
  FakeWriter writer;
  writer.leave_after = 3;
  EXPECT_EQ(server_->Call("POST", kCompletions, body.dump(), &writer).status, 499);
  body["stream"] = false;
  FakeWriter gone;
  gone.connected = false;
  body["n"] = 8;
  EXPECT_EQ(server_->Call("POST", kCompletions, body.dump(), &gone).status, 499);
  // Freed: the cache empties without anybody asking for the rest.
  const auto busy = [] {
    const EngineStats stats = server_->engine->Stats();
    return stats.running + stats.waiting;
  };
  for (int i = 0; i < 500 && busy() > 0; ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(busy(), 0);
}

TEST_F(OpenAiApi, TokenizerAndModels) {
  const json tokens =
      server_->Post("/tokenize", {{"prompt", "héllo\n"}, {"add_special_tokens", false}});
  EXPECT_EQ(tokens["count"], tokens["tokens"].size());
  EXPECT_EQ(server_->Post("/detokenize", {{"tokens", tokens["tokens"]}})["prompt"], "héllo\n");
  const json special = server_->Post("/tokenize", {{"prompt", "héllo\n"}});
  EXPECT_EQ(special["tokens"].size(), tokens["tokens"].size() + 1);  // BOS
  const json info = json::parse(server_->Call("GET", "/tokenizer_info", "").body);
  EXPECT_TRUE(info["eos_token"].is_string());
  EXPECT_TRUE(info["chat_template"].is_string());
  const json models = json::parse(server_->Call("GET", "/v1/models", "").body);
  EXPECT_EQ(models["object"], "list");
  EXPECT_EQ(models["data"][0]["id"], "tiny:latest");
  EXPECT_EQ(json::parse(server_->Call("GET", "/v1/models/tiny:latest", "").body),
            models["data"][0]);
}

TEST_F(OpenAiApi, AModelHasItsPath) {
  const json models = json::parse(server_->Call("GET", "/v1/models", "").body);
  for (const char* name : {"tiny:latest", "tiny%3Alatest", "tiny%3alatest", "tiny"}) {
    const http::Response response = server_->Call("GET", absl::StrCat("/v1/models/", name), "");
    ASSERT_EQ(response.status, 200) << name << response.body;
    EXPECT_EQ(json::parse(response.body), models["data"][0]);
  }
  // An unknown one is told as where a body names it.
  for (const char* name : {"gpt-4", "team/gpt-4", "tiny:latest/", "tiny%3", "tiny:latest%"}) {
    const http::Response response = server_->Call("GET", absl::StrCat("/v1/models/", name), "");
    EXPECT_EQ(response.status, 404);
    json body = ChatBody("hi");
    body["model"] = name;
    EXPECT_EQ(json::parse(response.body), server_->Post(kChat, body, 404)) << name;
  }
  EXPECT_EQ(server_->Call("DELETE", "/v1/models/tiny", "").status, 405);
}

TEST(OpenAiModels, AreChosenByName) {
  TinyServer server;
  testing::TinyPackageOptions options;
  options.model.seed += 1;
  const testing::TinyPackage package = testing::MakeTinyPackage(options);
  server.registry.Put(testing::MakeVersion(package, "other:v1", {128, 8, 2}));
  EXPECT_EQ(json::parse(server.Call("GET", "/v1/models", "").body)["data"].size(), 2u);
  json body = Greedy({5, 80, 33}, 8);
  const json first = server.Post(kCompletions, body);
  body["model"] = "other";
  const json other = server.Post(kCompletions, body);
  EXPECT_EQ(other["model"], "other:v1");
  EXPECT_NE(other["choices"][0]["text"], first["choices"][0]["text"]);
  body.erase("model");
  EXPECT_EQ(server.Post(kCompletions, body)["model"], "tiny:latest");
  body["model"] = "third";
  EXPECT_THAT(server.Post(kCompletions, body, 404)["error"]["message"].get<std::string>(),
              HasSubstr("\"other:v1\""));
}

// One address with many requests is told 429; another address is served, and so is a key.
TEST(OpenAiClients, OneThatAsksTooMuchDoesNotShutOutOthers) {
  testing::TinyServerOptions options;
  options.engine = {512, 4, 1};  // of four that wait two may be one client's
  TinyServer server(options);
  openai::Api by_key(&server.registry, nullptr, /*keys_checked=*/true);
  const auto routes = by_key.Routes();
  const auto post = [](const http::HttpServer::Routes& from, const std::string& peer,
                       const std::string& key, int max_tokens, FakeWriter* writer) {
    http::Request request;
    request.method = "POST";
    request.path = kCompletions;
    request.body = Greedy({5, 80}, max_tokens).dump();
    request.peer = peer;
    if (!key.empty()) request.headers["authorization"] = key;
    return from.at(kCompletions).at("POST")(request, writer);
  };
  const auto crowd = [&](const http::HttpServer::Routes& from, const std::string& peer,
                         const std::string& key) {
    FakeWriter writers[3];
    std::vector<std::thread> threads;
    for (FakeWriter& writer : writers) {
      threads.emplace_back([&] { post(from, peer, key, 500, &writer); });
    }
    const auto busy = [&] {
      const EngineStats stats = server.engine->Stats();
      return stats.running + stats.waiting;
    };
    for (int i = 0; i < 1000 && busy() < 3; ++i) absl::SleepFor(absl::Milliseconds(1));
    FakeWriter over, other;
    // While the first of the three still runs; where all have ended already there is no crowd.
    const http::Response refused = post(from, peer, key, 500, &over);
    const bool held = busy() >= 3;
    EXPECT_EQ(post(from, "10.0.0.9", key.empty() ? "" : "Bearer other", 1, &other).status, 200);
    for (std::thread& thread : threads) thread.join();
    if (!held) return;
    EXPECT_EQ(refused.status, 429);
    EXPECT_THAT(refused.body, HasSubstr("this client's share of the queue is full"));
    EXPECT_EQ(refused.headers.at("Retry-After"), "1");
  };
  crowd(server.routes, "10.0.0.1", "");
  // Who invents keys where none are checked is known by the address.
  crowd(server.routes, "10.0.0.1", "Bearer x");
  crowd(routes, "10.0.0.1", "Bearer x");
}

// Each path counts, each key is a client of its own, and what was refused is told of.
TEST(OpenAiClients, OneThatAsksTooOftenIsToldWhenToComeAgain) {
  TinyServer server;
  prometheus::Registry prometheus;
  ServerMetrics metrics(&prometheus);
  access::RateLimit rates(1.0 / 3600, 2);
  openai::Api api(&server.registry, &metrics, /*keys_checked=*/true, &rates);
  const auto routes = api.Routes();
  const auto ask = [&](const std::string& path, const char* method, const std::string& key) {
    http::Request request;
    request.method = method;
    request.path = path;
    request.body = Greedy({5, 80}, 1).dump();
    request.peer = "10.0.0.1";
    request.headers["authorization"] = key;
    FakeWriter writer;
    return routes.at(path).at(method)(request, &writer);
  };
  EXPECT_EQ(ask(kCompletions, "POST", "Bearer a").status, 200);
  EXPECT_EQ(ask("/v1/models", "GET", "Bearer a").status, 200);
  for (const char* path : {kCompletions, "/tokenize"}) {
    const http::Response refused = ask(path, "POST", "Bearer a");
    EXPECT_EQ(refused.status, 429);
    EXPECT_EQ(refused.headers.at("Retry-After"), "3600");
    EXPECT_THAT(refused.body, HasSubstr("rate_limit_exceeded"));
  }
  EXPECT_EQ(ask(kCompletions, "POST", "Bearer b").status, 200);
  EXPECT_EQ(metrics.rate_limited->Value(), 2);
  EXPECT_EQ(metrics.Requests(kCompletions, 429).Value(), 1);
}

TEST_F(OpenAiApi, WhatIsNotJsonIs415) {
  http::Request request;
  request.method = "POST";
  request.path = kCompletions;
  request.body = Greedy("ab", 1).dump();
  FakeWriter writer;
  const auto ask = [&] {
    return server_->routes.at(kCompletions).at("POST")(request, &writer).status;
  };
  EXPECT_EQ(ask(), 200);  // no browser, which would name its page's origin
  request.headers["origin"] = "https://elsewhere.example";
  EXPECT_EQ(ask(), 415);
  const auto status = [&](const std::string& type) {
    request.headers["content-type"] = type;
    return ask();
  };
  EXPECT_EQ(status("text/plain"), 415);
  EXPECT_EQ(status("application/x-www-form-urlencoded"), 415);
  EXPECT_EQ(status("Application/JSON; charset=utf-8"), 200);
}

TEST_F(OpenAiApi, PenaltiesAndBiasChangeTheText) {
  json body = Greedy("hello", 10);
  const json plain = server_->Post(kCompletions, body)["choices"][0]["text"];
  // One token is made certain.
  body["logit_bias"] = {{"100", 100}};
  body["logprobs"] = 0;
  const json biased = server_->Post(kCompletions, body)["choices"][0]["logprobs"]["tokens"];
  for (const json& token : biased) EXPECT_EQ(token, openai::TokenName(*server_->tokenizer, 100));
  body["frequency_penalty"] = 2;
  body["logit_bias"] = {{"100", 3}};
  EXPECT_NE(plain, server_->Post(kCompletions, body)["choices"][0]["text"]);
}

// Choices come mixed in a stream, each by its index, and are those of the answer at once.
TEST_F(OpenAiApi, StreamedChoicesAreThoseOfAWholeAnswer) {
  for (const bool chat : {false, true}) {
    const char* const path = chat ? kChat : kCompletions;
    json body = chat ? ChatBody("hello") : Greedy({"hello", "ab"}, 12);
    body.update({{"n", 3}, {"temperature", 1}, {"seed", 5}});
    const json whole = server_->Post(path, body);
    const size_t count = whole["choices"].size();
    ASSERT_EQ(count, chat ? 3u : 6u);
    body.update({{"stream", true}, {"stream_options", {{"include_usage", true}}}});
    FakeWriter writer;
    EXPECT_EQ(server_->Call("POST", path, body.dump(), &writer).status, 200);
    std::vector<std::string> texts(count), reasons(count);
    json usage;
    for (const json& event : writer.Events()) {
      if (event.is_string()) continue;
      if (event["choices"].empty()) usage = event["usage"];
      for (const json& choice : event["choices"]) {
        const size_t i = choice["index"];
        ASSERT_LT(i, count);
        EXPECT_EQ(reasons[i], "") << "more of a choice that has ended";
        texts[i] += chat ? choice["delta"].value("content", "") : choice["text"].get<std::string>();
        if (!choice["finish_reason"].is_null()) reasons[i] = choice["finish_reason"];
      }
    }
    for (size_t i = 0; i < count; ++i) {
      const json& choice = whole["choices"][i];
      EXPECT_EQ(texts[i], chat ? choice["message"]["content"] : choice["text"]) << i;
      EXPECT_EQ(reasons[i], choice["finish_reason"]) << i;
    }
    // What was reused depends on what ran before.
    for (const char* name : {"prompt_tokens", "completion_tokens", "total_tokens"}) {
      EXPECT_EQ(usage[name], whole["usage"][name]) << name;
    }
  }
}

// What the model would write most likely, token by token, with the penalty that the API describes.
TEST_F(OpenAiApi, ARepetitionPenaltyWeighsOnPromptAndAnswer) {
  const json ids = server_->Post("/tokenize", {{"prompt", "hello"}})["tokens"];
  json body = Greedy(ids, 12);
  body["repetition_penalty"] = 1.5;
  body["logprobs"] = 0;
  const json answer = server_->Post(kCompletions, body)["choices"][0]["logprobs"]["tokens"];
  std::vector<int32_t> tokens = ids.get<std::vector<int32_t>>();
  for (const json& name : answer) {
    const std::vector<double> all = ReferenceLogits(server_->package, tokens);
    std::vector<float> logits(all.end() - server_->package.spec.vocab, all.end());
    for (const int32_t seen : std::set<int32_t>(tokens.begin(), tokens.end())) {
      logits[seen] *= logits[seen] > 0 ? 1 / 1.5f : 1.5f;
    }
    tokens.push_back(ArgMax(logits.data(), static_cast<int64_t>(logits.size())));
    EXPECT_EQ(name, openai::TokenName(*server_->tokenizer, tokens.back()));
  }
  EXPECT_EQ(answer.size(), 12u);
  body["repetition_penalty"] = 1;
  EXPECT_NE(server_->Post(kCompletions, body)["choices"][0]["logprobs"]["tokens"], answer);
}

TEST_F(OpenAiApi, AStopTokenEndsTheTextBeforeIt) {
  json body = Greedy("hello", 12);
  body["logit_bias"] = {{"100", 100}};
  const json whole = server_->Post(kCompletions, body);
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "length");
  body["stop_token_ids"] = {7, 100};  // ignore_eos does not hide it
  const json ended = server_->Post(kCompletions, body);
  EXPECT_EQ(ended["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(ended["choices"][0]["text"], "");
  EXPECT_EQ(ended["usage"]["completion_tokens"], 1);
}

TEST_F(OpenAiApi, SpecialTokensAreAddedWhereTheRequestSaysSo) {
  const auto prompt_tokens = [](const char* path, json body, const json& add) {
    body["add_special_tokens"] = add;
    return server_->Post(path, body)["usage"]["prompt_tokens"].get<int64_t>();
  };
  const auto tokens = [](bool add) {
    return server_->Post("/tokenize", {{"prompt", "hello"}, {"add_special_tokens", add}})["count"]
        .get<int64_t>();
  };
  const int64_t added = tokens(true) - tokens(false);
  EXPECT_EQ(added, 1);
  EXPECT_EQ(prompt_tokens(kCompletions, Greedy("hello", 1), nullptr), tokens(true));
  EXPECT_EQ(prompt_tokens(kCompletions, Greedy("hello", 1), false), tokens(false));
  const int64_t chat = prompt_tokens(kChat, ChatBody("hello"), nullptr);
  EXPECT_EQ(prompt_tokens(kChat, ChatBody("hello"), true), chat + added);
}

TEST(OpenAiMemory, ARequestWithoutMemoryIs503) {
  std::atomic<int64_t> room{0};
  testing::TinyServerOptions options;
  options.engine.memory_room = [&room] { return room.load(); };
  TinyServer server(options);
  const http::Response response = server.Call("POST", kCompletions, Greedy("hello", 3).dump());
  EXPECT_EQ(response.status, 503) << response.body;
  EXPECT_EQ(response.headers.at("Retry-After"), "1");
  EXPECT_EQ(json::parse(response.body)["error"]["type"], "service_unavailable_error");
  // A stream that has begun ends with the error.
  json body = Greedy("hello", 3);
  body["stream"] = true;
  FakeWriter writer;
  server.Call("POST", kCompletions, body.dump(), &writer);
  EXPECT_EQ(writer.Events().back()["error"]["code"], 503);
  room = int64_t{1} << 30;
  server.Post(kCompletions, Greedy("hello", 3));
}

}  // namespace
}  // namespace shiftadd
