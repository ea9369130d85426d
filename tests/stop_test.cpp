// Stop requests and the signals that raise them.
#include "core/stop.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/signals.h"

namespace spillway {
namespace {

TEST(StopFlag, ARequestRunsEachCallbackOnce) {
  StopFlag stop;
  int first = 0;
  int second = 0;
  const auto one = stop.on_request([&] { ++first; });
  const auto two = stop.on_request([&] { ++second; });
  EXPECT_FALSE(stop.requested());
  EXPECT_NO_THROW(stop.check());
  stop.request();
  stop.request();
  EXPECT_TRUE(stop.requested());
  EXPECT_THROW(stop.check(), Stopped);
  EXPECT_EQ(first, 1);
  EXPECT_EQ(second, 1);
}

/// A request is seen by whoever ends the watch, or ends the process: there is no moment between.
TEST(StopFlag, ARequestThatCameWhileWatchedIsSeenAtTheEndOfIt) {
  StopFlag stop;
  stop.watch();
  EXPECT_NO_THROW(stop.unwatch());
  EXPECT_FALSE(stop.watched());
  stop.watch();
  stop.request();
  EXPECT_THROW(stop.unwatch(), Stopped);
  EXPECT_FALSE(stop.watched());
}

/// Of the two that a signal may meet only one acts: who watches, or who ends the process.
TEST(StopFlag, ARequestThatNobodyWatchesIsNone) {
  StopFlag stop;
  int ends = 0;
  stop.request_or([&] { ++ends; });
  EXPECT_EQ(ends, 1);
  stop.watch();
  EXPECT_FALSE(stop.requested());
  EXPECT_NO_THROW(stop.unwatch());
  stop.watch();
  stop.request_or([&] { ++ends; });
  EXPECT_EQ(ends, 1);
  EXPECT_TRUE(stop.requested());
}

TEST(StopFlag, WhoSubscribesLateIsCalledAtOnce) {
  StopFlag stop;
  stop.request();
  int calls = 0;
  const auto late = stop.on_request([&] { ++calls; });
  EXPECT_EQ(calls, 1);
}

TEST(StopFlag, ASubscriptionEndsWithItsLastOwner) {
  StopFlag stop;
  int kept = 0;
  int ended = 0;
  StopSubscription outer;
  {
    StopSubscription inner = stop.on_request([&] { ++kept; });
    const StopSubscription gone = stop.on_request([&] { ++ended; });
    outer = std::move(inner);
  }
  stop.request();
  EXPECT_EQ(kept, 1);
  EXPECT_EQ(ended, 0);
}

/// Nothing polls: the wait has no timeout.
TEST(StopFlag, WakesWhoBlocks) {
  StopFlag stop;
  std::mutex mutex;
  std::condition_variable changed;
  bool waiting = false;
  std::thread blocked([&] {
    const auto subscription = stop.on_request([&] {
      const std::lock_guard lock(mutex);
      changed.notify_all();
    });
    std::unique_lock lock(mutex);
    waiting = true;
    changed.notify_all();
    changed.wait(lock, [&] { return stop.requested(); });
  });
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return waiting; });
  }
  stop.request();
  blocked.join();
}

/// Subscriptions come and go on other threads while the request is made; afterwards no callback
/// runs any more.
TEST(StopFlag, SubscriptionsMayEndWhileARequestIsMade) {
  for (int round = 0; round < 50; ++round) {
    StopFlag stop;
    std::vector<std::thread> threads;
    threads.reserve(4);
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 50; ++i) {
          int calls = 0;
          {
            const auto subscription = stop.on_request([&] { ++calls; });
          }
          EXPECT_LE(calls, 1);
        }
      });
    }
    stop.request();
    for (std::thread& thread : threads) thread.join();
  }
}

constexpr int kAtOnce = 99;

void wait_until_requested(const StopFlag& stop) {
  std::mutex mutex;
  std::condition_variable changed;
  const auto subscription = stop.on_request([&] {
    const std::lock_guard lock(mutex);
    changed.notify_all();
  });
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return stop.requested(); });
}

class Signals : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_P(Signals, TheFirstRequestsAStop) {
  EXPECT_EXIT(
      {
        StopFlag stop;
        stop.watch();
        {
          const StopSignals signals(stop, kAtOnce);
          kill(getpid(), GetParam());
          wait_until_requested(stop);
        }
        _exit(3);
      },
      ::testing::ExitedWithCode(3), "");
}

TEST_P(Signals, WhatNobodyWatchesEndsAtOnce) {
  EXPECT_EXIT(
      {
        StopFlag stop;
        const StopSignals signals(stop, kAtOnce);
        kill(getpid(), GetParam());
        while (true) pause();
      },
      ::testing::ExitedWithCode(kAtOnce), "spillway: stopped; there was nothing to keep yet");
}

TEST_P(Signals, ALaterOneEndsAtOnce) {
  EXPECT_EXIT(
      {
        StopFlag stop;
        stop.watch();
        const StopSignals signals(stop, kAtOnce, std::chrono::milliseconds(-1));
        kill(getpid(), GetParam());
        wait_until_requested(stop);
        kill(getpid(), SIGTERM);
        while (true) pause();
      },
      ::testing::ExitedWithCode(kAtOnce), "");
}

/// As timeout(1) sends them: to its child and then to the whole group.
TEST_P(Signals, CloseTogetherAreOneRequest) {
  EXPECT_EXIT(
      {
        StopFlag stop;
        stop.watch();
        {
          const StopSignals signals(stop, kAtOnce, std::chrono::hours(1));
          kill(getpid(), GetParam());
          wait_until_requested(stop);
          for (int i = 0; i < 100; ++i) kill(getpid(), GetParam());
        }
        _exit(3);
      },
      ::testing::ExitedWithCode(3), "");
}

TEST_P(Signals, IgnoredAtStartStayIgnored) {
  EXPECT_EXIT(
      {
        signal(GetParam(), SIG_IGN);
        StopFlag stop;
        stop.watch();
        const StopSignals signals(stop, kAtOnce, std::chrono::milliseconds(-1));
        kill(getpid(), GetParam());
        const int other = GetParam() == SIGINT ? SIGTERM : SIGINT;
        kill(getpid(), other);
        wait_until_requested(stop);
        kill(getpid(), GetParam());  // were it taken, it would end the process
        sigset_t pending;
        sigpending(&pending);
        _exit(sigismember(&pending, GetParam()) == 0 ? 3 : 4);
      },
      ::testing::ExitedWithCode(3), "");
}

TEST_P(Signals, AreNotBlockedInAChild) {
  EXPECT_EXIT(
      {
        StopFlag stop;
        stop.watch();
        const StopSignals signals(stop, kAtOnce);
        unblock_signals_in_child();
        pthread_kill(pthread_self(), GetParam());
        _exit(3);
      },
      ::testing::KilledBySignal(GetParam()), "");
}

INSTANTIATE_TEST_SUITE_P(All, Signals, ::testing::Values(SIGINT, SIGTERM, SIGHUP),
                         [](const auto& test) {
                           return std::string(test.param == SIGINT    ? "SIGINT"
                                              : test.param == SIGTERM ? "SIGTERM"
                                                                      : "SIGHUP");
                         });

}  // namespace
}  // namespace spillway
