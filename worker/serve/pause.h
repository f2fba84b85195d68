// What a thread does between two looks at something that another thread is about to change.
#ifndef SHIFTADD_WORKER_SERVE_PAUSE_H_
#define SHIFTADD_WORKER_SERVE_PAUSE_H_

namespace shiftadd {

inline void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_PAUSE_H_
