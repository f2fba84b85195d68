// The report of a job as one HTML page that needs nothing else: pictures in SVG, numbers in tables.
#ifndef SHIFTADD_SERVICES_CLI_HTML_REPORT_PAGE_H_
#define SHIFTADD_SERVICES_CLI_HTML_REPORT_PAGE_H_

#include <string>
#include <vector>

#include "shiftadd/v1/job.pb.h"

namespace shiftadd::cli::html {

// What another budget gave when it was published and measured.
struct MeasuredBudget {
  std::string output;  // name:tag
  double planes = 0, stored_bits = 0, kl = 0;
};

struct ReportData {
  v1::JobReport report;
  std::vector<v1::JobEvent> events;                // all of the job
  std::vector<v1::PlanBudgetResponse> budgets;     // by ascending planes; may be empty
  std::vector<MeasuredBudget> measured;            // the job's own and its children's
  std::vector<v1::PackageEvaluation> evaluations;  // of its package; may be empty
};

std::string ReportPage(const ReportData& data);

// Its pictures; empty where the job has not come so far. Internal to html/.
std::string WidthMap(const v1::JobReport& report);
std::string SensitivityBars(const v1::JobReport& report);
std::string ErrorByDepth(const v1::JobReport& report);
std::string BudgetCurve(const ReportData& data);
std::string TaskTimeline(const std::vector<v1::JobEvent>& events);

}  // namespace shiftadd::cli::html

#endif  // SHIFTADD_SERVICES_CLI_HTML_REPORT_PAGE_H_
