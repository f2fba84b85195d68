// What log lines say of the call that is being served.
#ifndef SHIFTADD_SERVICES_BASE_CALL_NOTES_H_
#define SHIFTADD_SERVICES_BASE_CALL_NOTES_H_

#include "services/base/logging.h"

namespace shiftadd {

// Fields that are found out while a call is served and belong to it as a whole: of every line that
// this thread logs until its CallNotes end, the one about the answer among them. Without CallNotes
// nothing is kept.
void NoteInCall(LogFields fields);

// Made by who serves calls, around each. One at a time on a thread.
class CallNotes {
 public:
  CallNotes();
  ~CallNotes();
  CallNotes(const CallNotes&) = delete;
  CallNotes& operator=(const CallNotes&) = delete;
};

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BASE_CALL_NOTES_H_
