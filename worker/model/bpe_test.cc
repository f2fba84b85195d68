#include "worker/model/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <utility>

#include "worker/model/merge_queue.h"

namespace shiftadd {
namespace {

// Tokens over a few letters, and merges of random pairs: also such as make a token of a lower rank
// than their own possible, which a trained list does not have.
struct Vocabulary {
  std::vector<std::string> tokens;
  struct Merge {
    int32_t rank = -1, token = -1;
  };
  std::array<std::array<Merge, 64>, 64> merges;  // by the tokens of a pair
  Bpe bpe;

  Vocabulary(uint32_t seed, int letters, int wanted) {
    std::mt19937 random(seed);
    for (int i = 0; i < letters; ++i) Add(std::string(1, static_cast<char>('a' + i)));
    std::vector<std::pair<int32_t, int32_t>> pairs;
    while (static_cast<int>(pairs.size()) < wanted) {
      const auto pick = [&] { return static_cast<int32_t>(random() % tokens.size()); };
      const std::pair<int32_t, int32_t> pair(pick(), pick());
      if (std::find(pairs.begin(), pairs.end(), pair) != pairs.end()) continue;
      pairs.push_back(pair);
      const std::string text = tokens[pair.first] + tokens[pair.second];
      if (std::find(tokens.begin(), tokens.end(), text) == tokens.end()) Add(text);
    }
    if (seed % 2 == 0) std::shuffle(pairs.begin(), pairs.end(), random);
    int32_t rank = 0;
    for (const auto& pair : pairs) {
      const std::string text = tokens[pair.first] + tokens[pair.second];
      const auto merged =
          static_cast<int32_t>(std::find(tokens.begin(), tokens.end(), text) - tokens.begin());
      merges[pair.first][pair.second] = {rank++, merged};
      bpe.AddMerge(pair.first, pair.second, merged);
    }
  }

  void Add(const std::string& text) {
    bpe.AddToken(text, static_cast<int32_t>(tokens.size()));
    tokens.push_back(text);
  }

  // Merge by merge, as the method is defined.
  std::vector<int32_t> Slowly(const std::string& word) const {
    std::vector<int32_t> symbols;
    for (const char c : word) symbols.push_back(c - 'a');
    while (true) {
      size_t best = symbols.size();
      Merge lowest;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const Merge& merge = merges[symbols[i]][symbols[i + 1]];
        if (merge.rank < 0 || (lowest.rank >= 0 && merge.rank >= lowest.rank)) continue;
        best = i;
        lowest = merge;
      }
      if (best == symbols.size()) return symbols;
      symbols[best] = lowest.token;
      symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
    }
  }
};

struct Merge {
  int32_t left, right, merged;
};

// "abcd", with tokens for its letters (0 to 3).
std::vector<int32_t> EncodeAbcd(const std::vector<Merge>& merges) {
  Bpe bpe;
  for (int32_t i = 0; i < 4; ++i) bpe.AddToken(std::string(1, static_cast<char>('a' + i)), i);
  for (const Merge& merge : merges) bpe.AddMerge(merge.left, merge.right, merge.merged);
  std::vector<int32_t> out;
  bpe.Encode("abcd", &out);
  return out;
}

TEST(BpeTest, WordsOfAnyLengthAreMergedInOrderOfRankAndPlace) {
  std::mt19937 random(3);
  for (uint32_t seed = 0; seed < 12; ++seed) {
    const int letters = 1 + static_cast<int>(seed % 4);
    const Vocabulary vocabulary(seed, letters, 40);
    for (const size_t size : {1, 2, 3, 30, 700, 4095, 4096, 5000}) {
      std::string word;
      while (word.size() < size) {
        word += static_cast<char>('a' + random() % static_cast<uint32_t>(letters));
      }
      std::vector<int32_t> found;
      vocabulary.bpe.Encode(word, &found);
      ASSERT_EQ(found, vocabulary.Slowly(word)) << "seed " << seed << ", " << size << " letters";
    }
  }
}

// What Hugging Face's tokenizers make of the same lists.
TEST(BpeTest, TheLastOfEqualMergesCounts) {
  enum : int32_t { kA, kB, kC, kD, kAb, kBc, kCd };
  const Merge ab = {kA, kB, kAb}, bc = {kB, kC, kBc}, cd = {kC, kD, kCd};
  EXPECT_EQ(EncodeAbcd({ab, bc, cd}), (std::vector<int32_t>{kAb, kCd}));
  EXPECT_EQ(EncodeAbcd({ab, bc, ab, cd}), (std::vector<int32_t>{kA, kBc, kD}));
  EXPECT_EQ(EncodeAbcd({bc, ab, bc, bc, cd}), (std::vector<int32_t>{kAb, kCd}));
  // A merge behind one that is listed twice does not share its rank.
  EXPECT_EQ(EncodeAbcd({cd, cd, bc}), (std::vector<int32_t>{kA, kB, kCd}));
}

TEST(MergeQueueTest, ListsHaveTheHeapsOrder) {
  std::mt19937 random(5);
  MergeHeap heap;
  MergeLists lists;
  for (int step = 0; step < 200'000; ++step) {
    // Fewer and fewer are put in, and none at the end.
    const uint32_t percent = step < 1000 ? 100 : step < 150'000 ? 50 - step / 5000 : 0;
    if (random() % 100 < percent) {
      const uint32_t rank = random() % 20;
      const MergeCandidate candidate{rank, static_cast<int32_t>(random() % 5000),
                                     static_cast<int32_t>(rank) + 7};
      heap.Push(candidate);
      lists.Push(candidate);
    } else if (!heap.empty()) {
      const MergeCandidate a = heap.Pop(), b = lists.Pop();
      ASSERT_EQ(std::make_pair(a.rank, a.position), std::make_pair(b.rank, b.position));
      ASSERT_EQ(a.token, b.token);
    }
    ASSERT_EQ(heap.empty(), lists.empty());
  }
  EXPECT_TRUE(lists.empty());
}

}  // namespace
}  // namespace shiftadd
